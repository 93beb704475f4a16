// What LogQL expressions name, by Grafana's own grammar: a JSON list of expressions on standard
// input, a JSON list of findings on standard output.
import { readFileSync } from "node:fs";
import { parser } from "@grafana/lezer-logql";

const unquoted = (text) => (text[0] === "`" ? text.slice(1, -1) : JSON.parse(text));

function analyze(expr) {
  const text = (node) => expr.slice(node.from, node.to);
  const found = { expr, errors: [], stream: [], extracted: {}, filtered: [], grouped: [],
                  unwrapped: [], formats: [] };
  parser.parse(expr).iterate({
    enter(at) {
      const node = at.node;
      const names = () => node.getChildren("Identifier").map(text);
      if (node.type.isError) found.errors.push(`at ${node.from}: ${expr.slice(node.from)}`);
      switch (node.name) {
        case "Matcher": {
          const [label] = names();
          let above = node.parent;
          while (above && !["Selector", "LabelFilter"].includes(above.name)) above = above.parent;
          if (above?.name === "LabelFilter") found.filtered.push(label);
          else found.stream.push({
            label, op: text(node.firstChild.nextSibling), value: unquoted(text(node.lastChild)),
          });
          break;
        }
        case "LabelExtractionExpression":
          found.extracted[names()[0]] = unquoted(text(node.getChild("String")));
          break;
        case "Labels": found.grouped.push(...names()); break;
        case "UnwrapExpr": found.unwrapped.push(...names()); break;
        case "LineFormatExpr": found.formats.push(unquoted(text(node.getChild("String")))); break;
      }
    },
  });
  return found;
}

const expressions = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(expressions.map(analyze)));
