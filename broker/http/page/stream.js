// The one stream from the broker: it is read for as long as the page is open, resumed where it broke
// off, and never silently dead.

const SILENCE = 7000; // milliseconds; the broker speaks every 2 s
const SHORTEST = 500;
const LONGEST = 5000; // milliseconds between two attempts

export class Stream {
  #path;
  #deliver;
  #tell;
  #token = null;
  #attempt = null;
  #heard = 0;
  #pause = SHORTEST;
  #wake = () => {};

  // deliver(kind, data) is called for each message; tell({live, why, at}) when the link changes.
  constructor(path, deliver, tell) {
    this.#path = path;
    this.#deliver = deliver;
    this.#tell = tell;
  }

  get heard() {
    return this.#heard;
  }

  // Forget the place in the log, and begin with a snapshot.
  beginAnew() {
    this.#token = null;
    this.#attempt?.abort(new Error("the broker was replaced; beginning anew"));
  }

  async run() {
    setInterval(() => this.#listen(), 1000);
    addEventListener("online", () => this.#wake());
    document.addEventListener("visibilitychange", () => this.#wake());
    for (;;) {
      const why = await this.#follow();
      const wait = this.#pause * (0.8 + 0.4 * Math.random());
      this.#pause = Math.min(this.#pause * 2, LONGEST);
      this.#tell({ live: false, why, at: Date.now() + wait });
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, wait);
      });
      this.#tell({ live: false, why, at: null });
    }
  }

  #listen() {
    if (this.#attempt && Date.now() - this.#heard > SILENCE) {
      this.#attempt.abort(new Error(`nothing was heard from the broker for ${SILENCE / 1000} s`));
    }
  }

  // Read until the stream ends; returns why it did.
  async #follow() {
    this.#attempt = new AbortController();
    this.#heard = Date.now();
    try {
      const headers = { Accept: "text/event-stream" };
      if (this.#token) headers["Last-Event-ID"] = this.#token;
      const { signal } = this.#attempt;
      const response = await fetch(this.#path, { headers, signal, cache: "no-store" });
      if (!response.ok) return await refusal(response);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return "the broker ended the stream";
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          signal.throwIfAborted();
          this.#take(block);
        }
      }
    } catch (error) {
      return error instanceof TypeError ? "the broker does not answer" : error.message;
    } finally {
      this.#attempt.abort();
      this.#attempt = null;
    }
  }

  #take(block) {
    this.#heard = Date.now();
    const fields = Object.fromEntries(
      block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]),
    );
    if (fields.event === "error") throw new Error(JSON.parse(fields.data).message);
    try {
      this.#deliver(fields.event, JSON.parse(fields.data));
    } catch (error) {
      reportError(error); // the page's, not the broker's
      throw error;
    }
    // Only what was worked on need not come again.
    if (fields.id) this.#token = fields.id;
    // From here on nothing is silent: before that, what was asked for may still be refused.
    if (fields.event === "health") {
      this.#pause = SHORTEST;
      this.#tell({ live: true });
    }
  }
}

async function refusal(response) {
  if (response.status === 401) return "the broker no longer accepts your token: reload the page";
  try {
    return (await response.json()).message;
  } catch {
    return `the answer was ${response.status} ${response.statusText}`;
  }
}
