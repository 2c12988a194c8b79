// Verdicts and corrections on their way to the server. Each is kept in localStorage under a key of its own until the server has
// answered for it, so that a closed tab, a crash or a lost network loses nothing, and two tabs cannot overwrite each
// other. The server ignores a repeated `op_id`, so whoever finds one may send it.

export const VERDICTS = { prefix: "winnow.verdict.", address: "/api/review/verdicts" };
export const EDITS = { prefix: "winnow.edit.", address: "/api/edits" };
const EVERY = 120; // ms between batches: a throttle, since a debounce would send nothing while a key is held
const BATCH = 100;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15000;
const POISON = [400, 413, 415, 422]; // repeating such a request cannot help

let latest = 0;

// Sorts in the order of making. (crypto.randomUUID is missing on plain http in a network.)
export function opId() {
  latest = Math.max(Date.now(), latest + 1);
  const random = crypto.getRandomValues(new Uint32Array(2));
  return `${latest.toString(36).padStart(9, "0")}-${[...random].map((n) => n.toString(36)).join("")}`;
}

export class Outbox {
  // `kind` is VERDICTS or EDITS. `changed()` after every change of `state`; `refused(message, item)` for what the server will not
  // take, `conflict(item, answer)` for what met the work of somebody else, `saved(item, answer)` for the rest.
  constructor(kind, { changed, refused, conflict, saved = () => {} }) {
    Object.assign(this, kind, { changed, refused, conflict, saved });
    this.waiting = stored(this.prefix);
    this.found = this.waiting.map((item) => item.candidate_id); // of a page before: what this one brought along may be older
    this.pause = 0;
    this.batch = BATCH;
    this.durable = true;
    this.timer = null;
    this.sending = null;
    this.problem = "";
    this.signedOut = false;
    addEventListener("online", () => this.flush());
    addEventListener("offline", () => this.report());
    addEventListener("pagehide", () => this.lastCall());
    if (this.waiting.length) this.schedule(0);
    queueMicrotask(() => this.report());
  }

  get unsaved() {
    return this.waiting.length;
  }

  push(verdict) {
    this.waiting.push(verdict);
    try {
      localStorage.setItem(this.prefix + verdict.op_id, JSON.stringify(verdict));
    } catch (error) {
      if (error.name !== "QuotaExceededError" && error.name !== "SecurityError") throw error;
      this.durable = false; // still sent, but a closed tab would lose it: the page asks before it is left
    }
    this.schedule(EVERY);
    this.report();
  }

  schedule(pause) {
    this.timer ??= setTimeout(() => this.flush(), pause);
  }

  // Sends one batch; resolves when it has been answered for or has failed.
  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    this.sending ??= this.send().finally(() => {
      this.sending = null;
      this.report();
      if (this.waiting.length) this.schedule(Math.max(this.pause, EVERY));
    });
    return this.sending;
  }

  async send() {
    const batch = this.waiting.slice(0, this.batch);
    if (!batch.length) return;
    try {
      this.settle(batch, await send(this.address, batch));
      this.pause = 0;
      this.problem = "";
      this.signedOut = false;
      this.batch = BATCH;
    } catch (error) {
      this.fail(batch, error);
    }
  }

  settle(batch, answers) {
    const byId = new Map(batch.map((verdict) => [verdict.op_id, verdict]));
    for (const answer of answers) {
      this.forget(answer.op_id);
      const item = byId.get(answer.op_id);
      if (answer.status === "refused") this.refused(answer.message, item);
      else if (answer.status === "conflict") this.conflict(item, answer);
      else this.saved(item, answer);
    }
  }

  fail(batch, error) {
    this.problem = error.message;
    this.signedOut = error.status === 401;
    if (!POISON.includes(error.status)) {
      this.pause = Math.min(LONGEST_PAUSE, this.pause * 2 || FIRST_PAUSE);
    } else if (batch.length > 1) {
      this.batch = 1; // find the one that spoils the batch
    } else {
      this.forget(batch[0].op_id);
      this.refused(error.message, batch[0]);
    }
  }

  forget(op) {
    this.waiting = this.waiting.filter((verdict) => verdict.op_id !== op);
    localStorage.removeItem(this.prefix + op);
  }

  lastCall() {
    if (this.waiting.length) fetch(this.address, { ...request(this.waiting.slice(0, BATCH)), keepalive: true }).catch(() => {});
  }

  get state() {
    return { unsaved: this.unsaved, failing: this.pause > 0, offline: !navigator.onLine, problem: this.problem, signedOut: this.signedOut, durable: this.durable };
  }

  report() {
    this.changed();
  }
}

function request(value) {
  const headers = { "Content-Type": "application/json", "X-Winnow": "1" };
  return { method: "POST", headers, body: JSON.stringify(value) };
}

// Posts a value as JSON and gives the answer; a refusal is an error with the server's words.
export async function send(address, value) {
  const answer = await fetch(address, request(value));
  const body = await answer.json().catch(() => ({}));
  if (answer.ok || (answer.status === 409 && Array.isArray(body))) return body; // 409: some of them met somebody else's
  throw Object.assign(new Error(body.error ?? `the server answered ${answer.status}`), { status: answer.status });
}

function stored(prefix) {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(prefix));
  return keys.sort().map((key) => JSON.parse(localStorage.getItem(key)));
}
