// What happened, in words.

import { h } from "./dom.js";
import { conditionName, span, status } from "./format.js";
import { badge } from "./pieces.js";

// What an event is to the eye.
export function kind(event) {
  if (event.transition) return `is-${event.transition.to.replace("SESSION_STATE_", "").toLowerCase()}`;
  if (event.attempt || event.notice) return "is-wait";
  return event.condition && status(event.condition) === "FALSE" ? "is-wait" : "";
}

export function story(event) {
  const { session, transition, attempt, condition, notice, updated } = event;
  if (transition) {
    const from = transition.from.replace("SESSION_STATE_", "");
    const to = transition.to.replace("SESSION_STATE_", "");
    const failed = ["RECONNECTING", "FAILED"].includes(to) && session.last_failure;
    return [
      // The first transition comes from nowhere.
      event.sequence === "1" ? null : `${from} \u2192 `,
      badge(to),
      ` ${transition.reason}`,
      to === "CONNECTED" ? `, generation ${session.generation}` : null,
      failed
        ? [
            ": ",
            h("code", { class: "code" }, session.last_failure.reason),
            ` ${session.last_failure.message}`,
          ]
        : null,
    ];
  }
  if (attempt) {
    const wait = attempt.next_attempt_time && Date.parse(attempt.next_attempt_time) - Date.parse(event.time);
    return [
      `attempt ${attempt.number} failed: `,
      h("code", { class: "code" }, attempt.failure.reason),
      ` ${attempt.failure.message}; `,
      attempt.next_attempt_time
        ? `the next after ${wait < 1000 ? "less than 1 s" : span(wait)}`
        : "no other is planned",
    ];
  }
  if (condition) {
    const code = condition.tws_code ? ` (${condition.tws_code})` : "";
    return [
      `${conditionName(condition)} is `,
      h("b", {}, status(condition)),
      `${code}: ${condition.message || condition.reason}`,
    ];
  }
  if (notice) return [h("b", {}, notice.reason), ` ${notice.message}`];
  if (updated)
    return `${updated.fields.map((field) => `${field} ${session[field] ?? ""}`).join(", ")}, by ${updated.actor}`;
  return "";
}
