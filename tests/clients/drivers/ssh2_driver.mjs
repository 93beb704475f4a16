// What ssh2-sftp-client does, as a command: OPERATION PATH [LOCAL]; the login is in the environment.
import { createWriteStream, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";

const Client = createRequire(`${process.env.PACKAGES}/`)("ssh2-sftp-client");
const [operation, path, local] = process.argv.slice(2);

const operations = {
  list: async (sftp) => console.log((await sftp.list(path)).map((each) => each.name).join("\n")),
  read: async (sftp) => process.stdout.write(await sftp.get(path)),
  resume: async (sftp) => {
    const start = statSync(local).size;
    const rest = sftp.createReadStream(path, { start });
    await pipeline(rest, createWriteStream(local, { flags: "a" }));
  },
  copy: async (sftp) => sftp.downloadDir(path, local),
  link: async (sftp) => {
    const folder = path.slice(0, path.lastIndexOf("/"));
    const found = (await sftp.list(folder)).find((each) => path === `${folder}/${each.name}`);
    console.log({ l: "link", "-": "file", d: "folder" }[found.type]);
  },
  write: async (sftp) => sftp.put(local, path),
};

const pinned = readFileSync(process.env.KNOWN_HOSTS, "ascii").trim().split(" ")[2];
const sftp = new Client();
let status = 0;
try {
  await sftp.connect({
    host: "127.0.0.1",
    port: Number(process.env.PORT),
    username: "gvpocr",
    privateKey: readFileSync(process.env.KEY),
    hostVerifier: (key) => key.toString("base64") === pinned,
  });
  await operations[operation](sftp);
} catch (error) {
  console.error(error.message);
  status = 1;
} finally {
  await sftp.end();
}
process.exitCode = status;
