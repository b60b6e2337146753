// A thread of the kernel of Node: told the numbers of cells to interrupt, on a descriptor, one a line. A signal reaches Node as it
// should only in the middle of a script; just before or after one, it would end the process or stop the next script. So the
// main thread says where it is, and is held there while it is signalled.
"use strict";

const net = require("node:net");
const { isMainThread, parentPort, workerData } = require("node:worker_threads");

// Where a cell is: between two of these; in its script; there and signalled; waiting for a promise; there and being signalled.
const [BETWEEN, RUNS, STOPS, WAITS, HOLDS] = [0, 1, 2, 3, 4];
const STATES = 5;

/** The place of a cell, in one number that is read and written at once. */
class Place {
  constructor(shared) {
    this.at = new Int32Array(shared);
  }
  move(cell, from, to) {
    const now = cell * STATES + from;
    return Atomics.compareExchange(this.at, 0, now, cell * STATES + to) === now;
  }
  set(cell, state) {
    Atomics.store(this.at, 0, cell * STATES + state);
  }
  /** Runs what is interrupted by signals, from within a script that they interrupt. */
  during(cell, work) {
    this.set(cell, RUNS);
    try {
      return work();
    } finally {
      while (!this.move(cell, RUNS, BETWEEN)); // or is stopped here
    }
  }
  wait(cell) {
    this.set(cell, WAITS);
  }
  end(cell) {
    while (!this.move(cell, WAITS, BETWEEN)); // the signal is on its way, for a moment
  }
}

/** Signals the process with all that it started; whoever waits for a promise is told besides. */
function interrupt(place, cell) {
  if (place.move(cell, RUNS, STOPS)) {
    process.kill(0, "SIGINT");
  } else if (place.move(cell, WAITS, HOLDS)) {
    process.kill(0, "SIGINT");
    parentPort.postMessage(cell);
    place.set(cell, WAITS);
  }
}

function listen() {
  const place = new Place(workerData.place);
  let text = "";
  const source = new net.Socket({ fd: workerData.told, readable: true, writable: false });
  source.setEncoding("utf8");
  source.on("data", (piece) => {
    const lines = (text + piece).split("\n");
    text = lines.pop();
    for (const line of lines) interrupt(place, Number(line));
  });
}

if (isMainThread) module.exports = { Place };
else listen();
