// A gowork worker in Node. It does all that docs/protocol.md asks of a worker, and uses only gowork's protos.
// Usage: node worker.js HOST:PORT PROTOS, after `gowork protos --out PROTOS`. `gowork worker-check` checks it.
'use strict';
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const { randomUUID } = require('node:crypto');

const SLOTS = 4;
const [leader, protos] = process.argv.slice(2);
const options = { includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true };
const files = loader.loadSync('gowork/proto/worker/v1/session.proto', options);
const { SessionService } = grpc.loadPackageDefinition(files).worker.v1;
const channel = {
  'grpc.max_receive_message_length': 8 << 20,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2000,
};

// Each handler takes the payload and an AbortSignal, which is aborted when the task must stop. It returns the result.
const handlers = {
  echo: async (payload) => JSON.stringify(payload),
  sleep: (payload, signal) => new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve('slept'), Number(payload));
    signal.addEventListener('abort', () => { clearTimeout(timer); reject(new Error('stopped')); });
  }),
};

// State that outlives a session.
const instance = randomUUID();
const held = new Map(); // fence -> { id, stop } of tasks that were granted and are not reported
const kept = new Map(); // fence -> report that the leader has not acknowledged
let draining = false;
let leaving = false;
let termSeen = 0n;
let failures = 0;
let current = null; // The open session.

async function run({ fence, id, task }) {
  const { payload, handler } = files['scheduler.v1.Task'].deserialize(task);
  const stop = new AbortController();
  held.set(fence, { id, stop });
  const report = { fence, id };
  try {
    report.result = await handlers[handler || 'echo'](payload, stop.signal);
    report.outcome = 'ATTEMPT_OUTCOME_COMPLETED';
  } catch (error) {
    report.outcome = stop.signal.aborted ? 'ATTEMPT_OUTCOME_CANCELLED' : 'ATTEMPT_OUTCOME_FAILED';
    report.failure = { kind: 'FAILURE_KIND_HANDLER', message: String(error) };
  }
  if (held.delete(fence)) keep(report); // If the task was released meanwhile, there is nothing to report.
}

function keep(report) {
  kept.set(report.fence, report);
  current?.report([report]);
}

function hello() {
  const running = [...held].map(([fence, { id }]) => ({ id, fence, state: 'HELD_STATE_RUNNING' }));
  const finished = [...kept.values()].map(({ id, fence }) => ({ id, fence, state: 'HELD_STATE_FINISHED' }));
  const offered = Object.keys(handlers).map((name) => ({ name, is_default: name === 'echo' }));
  return { name: `node-${process.pid}`, instance, slots: SLOTS, handlers: offered, version: '1', held: [...running, ...finished] };
}

class Session {
  constructor() {
    this.granted = 0; // Both counts, of grants and of credit, start from zero in each session.
    this.credit = 0;
    this.welcomed = false;
    this.beats = []; // The times at which unanswered heartbeats were sent, in ms.
    this.stream = new SessionService(leader, grpc.credentials.createInsecure(), channel).Connect();
    this.stream.on('data', (frame) => this.receive(frame));
    this.stream.on('error', () => this.end());
    this.stream.on('end', () => this.end());
    this.say({ hello: hello() });
  }

  say(frame) { this.stream.write(frame); }

  report(reports) { this.say({ reports }); }

  receive(frame) {
    if (frame.welcome) this.open(frame.welcome);
    else if (isEmpty(frame)) this.beats.shift();
    if (frame.pings.length) this.say({ pongs: frame.pings });
    for (const fence of frame.acknowledged) kept.delete(fence); // Refused reports are acknowledged too.
    for (const grant of frame.grants) this.take(grant);
    for (const fence of frame.cancelled) held.get(fence)?.stop.abort();
    for (const fence of frame.released) release(fence);
    if (frame.drains.length) { draining = true; this.say({ conditions: [{ draining }] }); }
    this.giveCredit();
    if (draining && !held.size && !kept.size) { leaving = true; this.say({ conditions: [{ draining, leaving }] }); }
  }

  open({ term, lease_ms: lease, heartbeat_ms: heartbeat }) {
    if (BigInt(term) < termSeen) { this.end(); return; } // This leader was replaced, and does not know it yet.
    termSeen = BigInt(term);
    this.welcomed = true;
    current = this;
    failures = 0;
    if (kept.size) this.report([...kept.values()]);
    if (draining) this.say({ conditions: [{ draining }] });
    this.timer = setInterval(() => this.beat(Number(lease)), Number(heartbeat));
  }

  beat(lease) {
    if (this.beats.length && Date.now() - this.beats[0] > lease * 2 / 3) { this.end(); return; } // The link is silent.
    this.beats.push(Date.now());
    this.say({});
  }

  take(grant) {
    this.granted += 1;
    if (!draining) run(grant);
    else keep({ fence: grant.fence, id: grant.id, outcome: 'ATTEMPT_OUTCOME_INTERRUPTED', reason: 'the worker drains' });
  }

  giveCredit() {
    const credit = this.granted + SLOTS - held.size;
    if (draining || !this.welcomed || credit <= this.credit) return;
    this.credit = credit;
    this.say({ credit: [credit] });
  }

  end() {
    if (this.over) return;
    this.over = true;
    if (current === this) current = null;
    clearInterval(this.timer);
    this.stream.cancel();
    if (leaving) process.exit(0);
    // The pause before the next session is 100 ms. It doubles, up to 2 s, each time that no session opens.
    setTimeout(() => new Session(), Math.min(2000, 100 * 2 ** failures));
    failures += 1;
  }
}

function release(fence) {
  kept.delete(fence);
  const task = held.get(fence);
  held.delete(fence);
  task?.stop.abort();
}

function isEmpty(frame) {
  return Object.values(frame).every((value) => value === null || value.length === 0);
}

new Session();
