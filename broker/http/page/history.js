// One session: what it is, and all that ever happened to it, the newest first, page by page.

import { h, list, put } from "./dom.js";
import { clock, conditionName, isFinal, moment, short, span, state, status } from "./format.js";
import { ago, badge, facts, labelsOf } from "./pieces.js";
import { kind, story } from "./story.js";

const PAGE = 50;
const $ = (id) => document.getElementById(id);

export class History {
  #sessionId = null;
  #events = new Map(); // by sequence
  #oldest = Infinity; // the lowest sequence that was asked for
  #session = null;
  #opener = null;
  #trouble = "";

  get sessionId() {
    return this.#sessionId;
  }

  open(sessionId, model) {
    if (this.#sessionId === null) this.#opener = document.activeElement;
    this.#sessionId = sessionId;
    this.#events = new Map();
    this.#oldest = Infinity;
    this.#session = null;
    this.#trouble = "";
    $("history").hidden = false;
    document.body.classList.add("with-history");
    this.render(model);
    $("history-title").focus();
    void this.more(model);
  }

  close() {
    if (this.#sessionId === null) return;
    // What opened it may have been drawn anew meanwhile.
    const row = document.querySelector(`#session-rows [data-session="${this.#sessionId}"]`);
    this.#sessionId = null;
    $("history").hidden = true;
    document.body.classList.remove("with-history");
    const back = this.#opener?.isConnected ? this.#opener : (row ?? $("filter"));
    back.focus();
  }

  // Load anew what is shown: after a reset of the stream events may be missing in between.
  reload(model) {
    if (this.#sessionId === null) return;
    this.#events = new Map();
    this.#oldest = Infinity;
    void this.more(model);
  }

  // Load what is older than what is shown.
  async more(model) {
    const sessionId = this.#sessionId;
    const before = Number.isFinite(this.#oldest) ? `&before=${this.#oldest}` : "";
    $("history-more").disabled = true;
    try {
      const answer = await fetch(
        `api/sessions/${encodeURIComponent(sessionId)}/events?page_size=${PAGE}${before}`,
        { cache: "no-store" },
      );
      const page = await answer.json();
      if (this.#sessionId !== sessionId) return;
      if (!answer.ok) throw new Error(page.message);
      for (const event of page.events) this.#take(event);
      const sequences = page.events.map((event) => Number(event.sequence));
      this.#oldest = sequences.length ? Math.min(...sequences) : 1;
      this.#trouble = "";
    } catch (error) {
      if (this.#sessionId !== sessionId) return;
      this.#trouble = error instanceof TypeError ? "The broker does not answer." : error.message;
    } finally {
      $("history-more").disabled = false;
    }
    this.render(model);
  }

  render(model) {
    if (this.#sessionId === null) return;
    for (const event of model.events) {
      if (event.session_id === this.#sessionId) this.#take(event);
    }
    const events = [...this.#events.values()].sort(
      (one, other) => Number(other.sequence) - Number(one.sequence),
    );
    const session =
      model.sessions.get(this.#sessionId) ?? model.ended.get(this.#sessionId) ?? events[0]?.session;
    $("history-title").textContent = `Session ${short(this.#sessionId)}`;
    $("history-trouble").textContent = this.#trouble;
    $("history-trouble").hidden = !this.#trouble;
    if (session && session !== this.#session) {
      this.#session = session;
      put($("history-facts"), about(session));
    }
    list($("timeline"), entries(events), (one) => one.key, renderEntry);
    const oldest = events.length ? Number(events.at(-1).sequence) : 1;
    const gone = this.#oldest === 1 && oldest > 1;
    $("history-more").hidden = oldest === 1 || gone;
    $("history-end").hidden = !gone;
  }

  #take(event) {
    const known = this.#events.get(event.sequence);
    if (!known?.persisted) this.#events.set(event.sequence, event);
  }
}

function about(session) {
  const labels = labelsOf(session);
  const failure = session.last_failure;
  const pairs = [
    ["state", [badge(state(session)), " for ", ago(session.state_time)]],
    ["ended because", session.close_reason],
    ["session id", h("span", { class: "mono" }, session.session_id)],
    ["owner", h("bdi", {}, session.owner)],
    [
      "client id",
      `${session.client_id} on ${session.gateway_id}${session.client_id_changed ? ", not the one that was asked for" : ""}`,
    ],
    ["labels", labels.length ? labels : null],
    ["accounts", session.accounts.join(", ")],
    ["generation", session.generation],
    ["opened", moment(session.create_time)],
    ["connected", session.connect_time && moment(session.connect_time)],
    ["lease", session.lease_ttl && `${parseFloat(session.lease_ttl)} s from each renewal`],
    ["failures", session.error_count ? String(session.error_count) : null],
    [
      "last failure",
      failure && [
        h("code", { class: "code" }, failure.reason),
        ` ${failure.message}, ${moment(failure.time)} `,
        isFinal(session) || state(session) !== "CONNECTED"
          ? h("span", { class: "hint" }, failure.hint)
          : null,
      ],
    ],
    [
      "conditions",
      session.conditions.length
        ? h(
            "ul",
            { class: "conditions" },
            session.conditions.map((fact) =>
              h(
                "li",
                {},
                conditionName(fact),
                " is ",
                h("b", { class: status(fact) === "TRUE" ? null : "warn" }, status(fact)),
                ` since ${moment(fact.transition_time)}`,
              ),
            ),
          )
        : null,
    ],
  ];
  return facts(...pairs);
}

// The events with the days that they are of, and for how long each transition's state lasted.
function entries(events) {
  return events.flatMap((event, index) => {
    const day = new Date(event.time).toDateString();
    const isNewDay = index === 0 || new Date(events[index - 1].time).toDateString() !== day;
    const later = event.transition && events.slice(0, index).findLast((other) => other.transition);
    const lasted = later ? Date.parse(later.time) - Date.parse(event.time) : 0;
    return [...(isNewDay ? [{ key: day, day }] : []), { key: event.sequence, event, lasted }];
  });
}

function renderEntry({ day, event, lasted }) {
  if (day) return h("li", { class: "day" }, day);
  return h(
    "li",
    { class: `event ${kind(event)}` },
    h("time", { datetime: event.time, title: moment(event.time) }, clock(event.time)),
    h(
      "span",
      { class: "story" },
      story(event),
      lasted >= 1000 ? h("span", { class: "quiet" }, ` for ${span(lasted)}`) : null,
      event.persisted ? null : h("span", { class: "tag is-overdue" }, "not on record yet"),
    ),
  );
}
