// What is known, on the page.

import { attention } from "./attention.js";
import { h, icon, list, put } from "./dom.js";
import {
  clock,
  conditionName,
  counted,
  isClosing,
  isFinal,
  moment,
  now,
  short,
  state,
  status,
} from "./format.js";
import { ago, badge, due, facts, labelsOf, passed, sessionButton } from "./pieces.js";
import { kind, story } from "./story.js";

const $ = (id) => document.getElementById(id);
const LEVELS = { act: "Act", wait: "Wait", note: "Note" };
const RANK = { RECONNECTING: 1, CONNECTING: 2, CONNECTED: 5, FAILED: 7, DISCONNECTED: 8 };
const SHOWN = 150; // events on the page at once
const MENTIONED = 9; // sessions that one trouble names

// -- what is wrong -----------------------------------------------------------

export function renderAttention(model) {
  const items = attention(model, now());
  const sessions = [...model.sessions.values()];
  $("attention-count").textContent = items.length ? String(items.length) : "";
  const connected = sessions.filter((session) => state(session) === "CONNECTED").length;
  const reachable = model.gateways.filter((gateway) => gateway.reachable).length;
  $("calm").hidden = items.length > 0;
  const calm =
    sessions.length === 0
      ? "Nothing needs attention. No session is open."
      : `Nothing needs attention. ${connected} of ${counted(sessions.length, "session")} connected; ` +
        `${reachable} of ${counted(model.gateways.length, "gateway")} reachable.`;
  if ($("calm").textContent !== calm) put($("calm"), icon("CONNECTED"), calm);
  // What a screen reader says: once for each change, and not each second.
  const spoken = items.length ? items.map((one) => `${LEVELS[one.level]}: ${one.title}`).join(". ") : calm;
  if ($("spoken").textContent !== spoken) $("spoken").textContent = spoken;
  list($("attention-items"), items, (one) => one.key, renderItem);
  return items;
}

function renderItem(one) {
  return h(
    "li",
    { class: `item is-${one.level}` },
    h("div", { class: "level" }, icon(one.level), LEVELS[one.level]),
    h(
      "div",
      { class: "what" },
      h(
        "h3",
        {},
        one.title,
        one.since ? h("span", { class: "when" }, "for ", ago(one.since)) : null,
        one.at ? h("span", { class: "when" }, passed(one.at)) : null,
        one.next ? h("span", { class: "when" }, `${one.nextLabel ?? "next attempt"} `, due(one.next)) : null,
      ),
      h("p", { class: "who" }, h("b", {}, "Who acts: "), one.who),
      one.message
        ? h(
            "p",
            {},
            one.code ? h("code", { class: "code" }, one.code) : null,
            one.code ? " " : null,
            one.message,
          )
        : null,
      one.also ? h("p", {}, one.also) : null,
      one.hint ? h("p", { class: "hint" }, one.hint) : null,
    ),
    one.sessions.length
      ? h(
          "div",
          { class: "affected" },
          counted(one.sessions.length, "session"),
          h(
            "p",
            {},
            one.sessions.slice(0, MENTIONED).map((id) => [sessionButton(id, short(id)), " "]),
            one.sessions.length > MENTIONED ? "…" : null,
          ),
        )
      : null,
  );
}

// -- gateways ----------------------------------------------------------------

// A hint that stands above, among what needs attention, is not given again.
export function renderGateways(model, items) {
  const told = new Set(items.map((one) => one.hint));
  const shown = model.gateways.map((gateway) => ({ gateway, told: told.has(gateway.last_failure?.hint) }));
  list($("gateways"), shown, ({ gateway }) => gateway.gateway_id, renderGateway);
}

function renderGateway({ gateway, told }) {
  const breaker = gateway.circuit_breaker.state
    .replace("CIRCUIT_BREAKER_STATE_", "")
    .replace("_", " ")
    .toLowerCase();
  const halfOpen = gateway.circuit_breaker.half_open_time;
  const kind = gateway.kind.replace("GATEWAY_KIND_", "").toLowerCase();
  const failures = gateway.circuit_breaker.failures;
  return h(
    "li",
    { class: "gateway" },
    h(
      "h3",
      {},
      gateway.gateway_id,
      h("span", { class: "quiet mono" }, ` ${gateway.host}:${gateway.port}`),
      kind === "unknown" ? null : h("span", { class: `tag is-${kind}` }, kind),
      gateway.readonly ? h("span", { class: "tag" }, "read-only") : null,
    ),
    h(
      "p",
      { class: "reach" },
      reach(gateway),
      gateway.drain
        ? badge(
            "wait",
            `drained by ${gateway.drain.actor}${gateway.drain.reason ? `: ${gateway.drain.reason}` : ""}`,
          )
        : null,
      gateway.maintenance_end_time
        ? badge("wait", `in maintenance until ${moment(gateway.maintenance_end_time)}`)
        : null,
    ),
    facts(
      [
        "seats",
        [
          h("meter", {
            min: 0,
            max: gateway.session_limit,
            value: gateway.sessions_used,
            "aria-hidden": "true",
          }),
          ` ${gateway.sessions_used} of ${gateway.session_limit}`,
        ],
      ],
      [
        "circuit",
        [
          h("span", { class: breaker === "closed" ? null : "warn" }, breaker),
          failures ? `, ${counted(failures, "failure")} in a row` : null,
          halfOpen ? [", half-opens ", due(halfOpen)] : null,
        ],
      ],
      ["next attempt", gateway.next_attempt_time ? due(gateway.next_attempt_time) : null],
      [
        "client ids held",
        gateway.client_ids.length
          ? gateway.client_ids.map((held) => [
              sessionButton(held.session_id, String(held.client_id)),
              h("span", { class: "quiet" }, ` ${held.owner}  `),
            ])
          : "none",
      ],
      [
        "in quarantine",
        gateway.quarantined_client_ids.length
          ? gateway.quarantined_client_ids.map((one) => [
              h("span", { class: "mono" }, String(one.client_id)),
              h("span", { class: "quiet" }, ` ${one.reason}, for `, ago(one.quarantine_time), "  "),
            ])
          : null,
      ],
      [
        "last failure",
        gateway.last_failure
          ? [
              h("code", { class: "code" }, gateway.last_failure.reason),
              ` ${gateway.last_failure.message}`,
              h("span", { class: "quiet" }, " ", passed(gateway.last_failure.time)),
              told ? null : h("span", { class: "hint" }, gateway.last_failure.hint),
            ]
          : null,
      ],
    ),
  );
}

function reach(gateway) {
  if (gateway.reachable === undefined) return badge("DISCONNECTED", "not tried yet");
  if (!gateway.reachable) return badge("FAILED", "unreachable");
  return [
    badge("CONNECTED", "reachable"),
    h("span", { class: "quiet" }, `server version ${gateway.server_version}`),
  ];
}

// -- sessions ----------------------------------------------------------------

export function renderSessions(model, filter) {
  const all = [...model.sessions.values(), ...[...model.ended.values()].reverse()];
  const shown = all
    .filter((session) => matches(session, filter))
    .map((session) => ({ session, overdue: Boolean(model.overdue.get(session.session_id)?.size) }));
  shown.sort(
    (one, other) => rank(one) - rank(other) || (one.session.state_time < other.session.state_time ? -1 : 1),
  );
  list($("session-rows"), shown, ({ session }) => session.session_id, renderSession);
  const seats = `${model.sessions.size} open, of ${model.broker.limits.sessions} at most`;
  $("session-count").textContent =
    shown.length === all.length ? seats : `${shown.length} of ${all.length} shown; ${seats}`;
  $("no-sessions").hidden = shown.length > 0;
  $("no-sessions").textContent = all.length
    ? "No session matches the filter."
    : "No session is open, and none has ended lately.";
}

function rank({ session, overdue }) {
  if (isFinal(session)) return RANK[state(session)];
  if (overdue) return 0;
  const troubled = session.conditions.some((fact) => status(fact) === "FALSE");
  return state(session) === "CONNECTED" && troubled ? 3 : RANK[state(session)];
}

function matches(session, { text, states }) {
  if (states && !states.includes(state(session))) return false;
  const labels = Object.entries(session.labels).map(([key, value]) => `${key}=${value}`);
  const words = [
    session.session_id,
    session.owner,
    session.gateway_id,
    `client ${session.client_id}`,
    state(session),
    session.close_reason,
    session.last_failure?.reason,
    ...labels,
    ...session.accounts,
    ...session.conditions.map((fact) => `${conditionName(fact)} ${status(fact)}`),
  ];
  const all = words.join("\n").toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

function renderSession({ session, overdue }) {
  const labels = labelsOf(session);
  return h(
    "tr",
    { class: isFinal(session) ? "is-ended" : null },
    h(
      "th",
      { scope: "row" },
      badge(state(session)),
      isClosing(session) ? h("span", { class: "tag" }, "closing") : null,
      overdue ? h("span", { class: "tag is-overdue" }, "overdue") : null,
    ),
    h(
      "td",
      { class: "number", "data-label": "for" },
      isFinal(session) ? passed(session.state_time) : ago(session.state_time),
    ),
    h(
      "td",
      { "data-label": "owner" },
      h("bdi", {}, session.owner),
      labels.length ? h("span", { class: "labels" }, labels) : null,
    ),
    h(
      "td",
      { class: "number", "data-label": "client id" },
      String(session.client_id),
      session.client_id_changed
        ? h("span", { class: "tag", title: "Another id than was asked for" }, "changed")
        : null,
    ),
    h(
      "td",
      { "data-label": "gateway" },
      session.gateway_id,
      session.readonly ? h("span", { class: "tag" }, "read-only") : null,
    ),
    h("td", { class: "number", "data-label": "generation" }, session.generation),
    h("td", { "data-label": "attempt" }, attempts(session)),
    h("td", { class: "wrong", "data-label": "what is wrong" }, wrong(session)),
    h("td", { "data-label": "history" }, sessionButton(session.session_id, short(session.session_id))),
  );
}

function attempts(session) {
  if (isFinal(session)) return null;
  const made = session.attempt ? `${session.attempt} failed` : null;
  if (session.next_attempt_time) return [made ? `${made}, ` : null, "next ", due(session.next_attempt_time)];
  return state(session) === "RECONNECTING" ? [made ? `${made}, ` : null, "none planned"] : made;
}

function wrong(session) {
  const troubled = isFinal(session) ? [] : session.conditions.filter((fact) => status(fact) !== "TRUE");
  const failed = session.last_failure && state(session) !== "CONNECTED" && !session.close_reason;
  return [
    session.close_reason ? h("p", {}, h("code", {}, session.close_reason)) : null,
    failed
      ? h(
          "p",
          {},
          h("code", { class: "code" }, session.last_failure.reason),
          ` ${session.last_failure.message}`,
        )
      : null,
    ...troubled.map((fact) =>
      h(
        "p",
        {},
        h("span", { class: "warn" }, `${conditionName(fact)} ${status(fact)}`),
        fact.message ? `: ${fact.message}` : null,
      ),
    ),
  ];
}

// -- events ------------------------------------------------------------------

export function renderEvents(model, filter) {
  const shown = model.events.filter((event) => matches(event.session, filter));
  list($("events"), shown.slice(0, SHOWN), (event) => `${event.session_id}/${event.sequence}`, renderEvent);
  $("event-count").textContent = shown.length > SHOWN ? `the newest ${SHOWN}` : String(shown.length);
}

function renderEvent(event) {
  return h(
    "li",
    { class: `event ${kind(event)}` },
    h("time", { datetime: event.time, title: moment(event.time) }, clock(event.time)),
    sessionButton(event.session_id, short(event.session_id)),
    h(
      "span",
      { class: "quiet" },
      "client ",
      String(event.session.client_id),
      ", ",
      h("bdi", {}, event.session.owner),
    ),
    h(
      "span",
      { class: "story" },
      story(event),
      event.persisted
        ? null
        : h(
            "span",
            { class: "tag is-overdue", title: "Lost if the broker dies before the database is back" },
            "not on record yet",
          ),
    ),
  );
}
