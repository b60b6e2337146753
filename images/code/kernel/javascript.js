// A kernel of Node: told cells on one descriptor, says on another what came of them, both as lines of JSON; told on a third which
// cell to interrupt.
//   node javascript.js javascript|typescript TOLD SAYS INTERRUPTS
"use strict";

const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const { createRequire } = require("node:module");
const net = require("node:net");
const path = require("node:path");
const { Writable } = require("node:stream");
const { pathToFileURL } = require("node:url");
const util = require("node:util");
const vm = require("node:vm");
const { Worker } = require("node:worker_threads");
const { script, LOAD } = require("./cell.js");
const { Place } = require("./interrupts.js");

const language = process.argv[2];
const [told, says, interrupts] = process.argv.slice(3).map(Number);
const HERE = __dirname;
const DISPLAY = Symbol.for("Jupyter.display");
// esbuild takes the types out and leaves everything else as it is.
const WITHOUT_TYPES = [
  "--loader=ts",
  "--target=esnext",
  "--log-level=error",
  '--tsconfig-raw={"compilerOptions":{"preserveValueImports":true,"verbatimModuleSyntax":true}}',
];

// Where signals find the cell that runs, and what runs its script in the middle of one that they interrupt.
const shared = new SharedArrayBuffer(4);
const place = new Place(shared);
const outer = new vm.Script('globalThis[Symbol.for("atoll.run")]()', { filename: path.join(HERE, "outer.js") });

let current = 0;
let scripted = null;
let interrupted = null;

function put(fd, data) {
  for (let at = 0; at < data.length; ) {
    try {
      at += fs.writeSync(fd, data, at);
    } catch (error) {
      // A process that was begun from here may have it not wait.
      if (error.code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

/** Standard output or error: an interrupt in the middle of a write leaves a stream of Node's own waiting for its end for ever. */
class Output extends Writable {
  constructor(fd) {
    super({ decodeStrings: false });
    this.fd = fd;
  }
  write(data, encoding, done = encoding) {
    put(this.fd, typeof data === "string" ? Buffer.from(data, typeof encoding === "string" ? encoding : "utf8") : data);
    if (typeof done === "function") process.nextTick(done);
    return true;
  }
  _write(data, encoding, done) {
    this.write(data, encoding, done);
  }
}

function say(event) {
  put(says, Buffer.from(`${JSON.stringify(event)}\n`));
}

/** The contents of a value by media type. */
async function contents(value) {
  const own = value !== null && ["object", "function"].includes(typeof value) ? value[DISPLAY] : undefined;
  if (typeof own === "function") return own.call(value);
  return { "text/plain": typeof value === "string" ? value : util.inspect(value) };
}

function toldOf(error) {
  if (!(error instanceof Error) && !util.types.isNativeError(error)) {
    return { name: "Error", value: util.inspect(error), traceback: util.inspect(error) };
  }
  // What is below the cell is nobody's business.
  const stack = String(error.stack || error).split("\n");
  const below = stack.findIndex((line) => /^ +at .*node:(vm|internal)/.test(line) || line.includes(HERE));
  const shown = stack.slice(0, below < 0 ? stack.length : below);
  return { name: String(error.name), value: String(error.message), traceback: shown.join("\n") };
}

function withoutTypes(code) {
  const done = spawnSync("esbuild", WITHOUT_TYPES, { input: code, encoding: "utf8", maxBuffer: 1 << 28 });
  if (done.error) throw done.error;
  if (done.status !== 0) throw new SyntaxError(done.stderr.trim());
  return done.stdout;
}

/** Loads what a cell imports, from where the kernel works. */
function load(specifier) {
  const name = specifier.replace(/^npm:/, "");
  if (/^(node|data|file):/.test(name)) return import(name);
  const here = createRequire(path.join(process.cwd(), "cell.js"));
  const found = here.resolve(name);
  return import(path.isAbsolute(found) ? pathToFileURL(found).href : found);
}

async function evaluate(code) {
  const made = script(language === "typescript" ? withoutTypes(code) : code);
  const compiled = new vm.Script(made.text, { filename: `cell-${current}.js` });
  scripted = () => compiled.runInThisContext();
  const value = outer.runInThisContext({ breakOnSigint: true });
  if (!made.waits) return value;
  const stopped = new Promise((_, reject) => (interrupted = reject));
  place.wait(current);
  return Promise.race([value, stopped]).finally(() => {
    interrupted = null;
    place.end(current);
  });
}

/** Variables for one cell; returns what gives them back. */
function withVariables(env) {
  const before = Object.keys(env).map((name) => [name, process.env[name]]);
  Object.assign(process.env, env);
  return () => {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  };
}

async function run({ code, env, number }) {
  const restore = withVariables(env);
  current = number;
  try {
    const value = await evaluate(code);
    if (value !== undefined) say({ bundle: await contents(value), main: true });
  } catch (error) {
    const stopped = error && error.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED";
    say({ error: stopped ? { name: "Interrupted", value: "", traceback: "" } : toldOf(error) });
  }
  restore();
  say({});
}

function listen() {
  let text = "";
  let turn = Promise.resolve();
  const source = new net.Socket({ fd: told, readable: true, writable: false });
  source.setEncoding("utf8");
  source.on("data", (piece) => {
    const lines = (text + piece).split("\n");
    text = lines.pop();
    for (const line of lines) turn = turn.then(() => run(JSON.parse(line)));
  });
  source.on("end", () => process.exit());
}

for (const [name, fd] of [["stdout", 1], ["stderr", 2]]) {
  Object.defineProperty(process, name, { configurable: true, enumerable: true, value: new Output(fd) });
}
// Without a listener it would end the process.
process.on("SIGINT", () => {});
const thread = new Worker(path.join(HERE, "interrupts.js"), { workerData: { place: shared, told: interrupts } });
thread.on("message", (cell) => {
  if (interrupted && cell === current) interrupted(Object.assign(new Error(), { code: "ERR_SCRIPT_EXECUTION_INTERRUPTED" }));
});
for (const event of ["uncaughtException", "unhandledRejection"]) {
  process.on(event, (error) => console.error(error));
}
Object.defineProperty(globalThis, Symbol.for("atoll.run"), { value: () => place.during(current, scripted) });
const here = path.join(process.cwd(), "cell.js");
Object.assign(globalThis, {
  require: createRequire(here),
  module: { exports: {} },
  exports: {},
  __filename: here,
  __dirname: process.cwd(),
  [LOAD]: load,
  display: async (value) => say({ bundle: await contents(value), main: false }),
});
listen();
