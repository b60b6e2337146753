// Makes a script of a cell: what is declared at its top lasts and may be declared again, `await` and `import` work, and the
// value of its last line is the script's. Knows nothing of running it.
"use strict";

const acorn = require("/usr/share/nodejs/acorn");

// What loads a module for a cell: a script of Node's has no `import` of its own.
const LOAD = "__atollImport";
const FUNCTIONS = new Set(["FunctionDeclaration", "FunctionExpression", "ArrowFunctionExpression"]);

/** Whether a node waits, other than in functions of its own. */
function waits(node) {
  if (Array.isArray(node)) return node.some(waits);
  if (!node || typeof node.type !== "string" || FUNCTIONS.has(node.type)) return false;
  if (node.type === "AwaitExpression" || (node.type === "ForOfStatement" && node.await)) return true;
  return Object.values(node).some((value) => value && typeof value === "object" && waits(value));
}

/** Has `import()` load from where the kernel works, wherever it is said. */
function loading(edits, node) {
  if (!node || typeof node !== "object") return;
  if (node.type === "ImportExpression") edits.replace(node.start, node.source.start, `${LOAD}(`);
  for (const value of Object.values(node)) loading(edits, value);
}

/** The names that a pattern binds. */
function names(pattern) {
  switch (pattern && pattern.type) {
    case "Identifier":
      return [pattern.name];
    case "ObjectPattern":
      return pattern.properties.flatMap((each) => names(each.value || each.argument));
    case "ArrayPattern":
      return pattern.elements.flatMap(names);
    case "AssignmentPattern":
      return names(pattern.left);
    case "RestElement":
      return names(pattern.argument);
    default:
      return [];
  }
}

/** The text of an import as an assignment. */
function imported(node) {
  const from = `await ${LOAD}(${node.source.raw})`;
  const all = node.specifiers.find((each) => each.type === "ImportNamespaceSpecifier");
  const some = node.specifiers.filter((each) => each !== all).map((each) => {
    const name = each.type === "ImportDefaultSpecifier" ? "default" : each.imported.name || each.imported.raw;
    return `${name}: ${each.local.name}`;
  });
  const parts = [];
  if (all) parts.push(`${all.local.name} = ${from}`);
  if (some.length > 0) parts.push(`({${some.join(", ")}} = ${from})`);
  return `${parts.join("; ") || from};`;
}

/** A text in which parts are replaced, all of them named by where they were before. */
class Edits {
  constructor(text) {
    this.text = text;
    this.parts = [];
  }

  replace(start, end, by) {
    this.parts.push({ start, end, by });
  }

  done() {
    let made = "";
    let at = 0;
    for (const { start, end, by } of this.parts.sort((a, b) => a.start - b.start || a.end - b.end)) {
      made += this.text.slice(at, start) + by;
      at = end;
    }
    return made + this.text.slice(at);
  }
}

/** Declarations of a script that does not wait: `var` can be said again. */
function lasting(edits, node) {
  if (node.type === "VariableDeclaration") {
    edits.replace(node.start, node.start + node.kind.length, "var");
  } else if (node.type === "ClassDeclaration") {
    edits.replace(node.start, node.start, `var ${node.id.name} = `);
    edits.replace(node.end, node.end, ";");
  }
}

/** Declarations of a script that waits, which is a function: they become assignments. Returns the names. */
function assigned(edits, node) {
  switch (node.type) {
    case "VariableDeclaration":
      edits.replace(node.start, node.declarations[0].start, ";(");
      for (const each of node.declarations) {
        if (!each.init) edits.replace(each.end, each.end, " = undefined");
      }
      edits.replace(node.declarations.at(-1).end, node.end, ");");
      return node.declarations.flatMap((each) => names(each.id));
    case "ClassDeclaration":
      edits.replace(node.start, node.start, `${node.id.name} = `);
      edits.replace(node.end, node.end, ";");
      return [node.id.name];
    case "ImportDeclaration":
      edits.replace(node.start, node.end, imported(node));
      return node.specifiers.map((each) => each.local.name);
    default:
      return [];
  }
}

function parse(code) {
  const options = { ecmaVersion: "latest", allowAwaitOutsideFunction: true, allowHashBang: true };
  try {
    return acorn.parse(code, { ...options, sourceType: "module" });
  } catch {
    return acorn.parse(code, { ...options, sourceType: "script" });
  }
}

/** A script that returns a promise of the last line's value. */
function waiting(code, body) {
  const edits = new Edits(code);
  loading(edits, body);
  const declared = body.flatMap((node) => assigned(edits, node));
  const last = body.at(-1);
  if (last.type === "ExpressionStatement") {
    edits.replace(last.start, last.expression.start, "return (");
    edits.replace(last.expression.end, last.end, ");");
  }
  const functions = body.filter((node) => node.type === "FunctionDeclaration").map((node) => node.id.name);
  const kept = functions.map((name) => `globalThis.${name} = ${name};`).join(" ");
  const head = declared.length > 0 ? `var ${[...new Set(declared)].join(", ")}; ` : "";
  return `${head}(async () => { ${kept}${edits.done()}\n})()`;
}

/** Whether a cell is an object and not a block. */
function isObject(code) {
  if (!code.trim().startsWith("{")) return false;
  try {
    const { type } = acorn.parse(`(${code}\n)`, { ecmaVersion: "latest", allowAwaitOutsideFunction: true }).body[0];
    return type === "ExpressionStatement";
  } catch {
    return false;
  }
}

/** The script of a cell, and whether its value is a promise of the value. What cannot be parsed is left to Node to refuse. */
function script(code) {
  const text = isObject(code) ? `(${code}\n)` : code;
  let body;
  try {
    ({ body } = parse(text));
  } catch {
    return { text: code, waits: false };
  }
  if (body.some((node) => node.type === "ImportDeclaration") || waits(body)) {
    return { text: waiting(text, body), waits: true };
  }
  const edits = new Edits(text);
  loading(edits, body);
  for (const node of body) lasting(edits, node);
  return { text: edits.done(), waits: false };
}

module.exports = { script, LOAD };
