// What several parts of the page are made of.

import { h, icon } from "./dom.js";
import { moment, since, until } from "./format.js";

// A time that ticks: how long ago it was, or how long until it is.
export function ago(time) {
  return h("time", { datetime: time, "data-since": time, title: moment(time) }, since(time));
}

// The same, as a whole that is not torn apart.
export function passed(time) {
  return h("span", { class: "ago" }, ago(time), " ago");
}

export function due(time) {
  return h("time", { datetime: time, "data-until": time, title: moment(time) }, until(time));
}

export function tick() {
  for (const element of document.querySelectorAll("[data-since]")) {
    element.textContent = since(element.dataset.since);
  }
  for (const element of document.querySelectorAll("[data-until]")) {
    element.textContent = until(element.dataset.until);
  }
}

export function badge(name, words = name) {
  return h("span", { class: `badge is-${name.toLowerCase()}` }, icon(name), words);
}

export function sessionButton(sessionId, words) {
  return h(
    "button",
    { type: "button", class: "link mono", "data-session": sessionId, title: "Show its history" },
    words,
  );
}

export function facts(...pairs) {
  return h(
    "dl",
    { class: "facts" },
    ...pairs
      .filter(([, value]) => value)
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

// They come in any order.
export function labelsOf(session) {
  const pairs = Object.entries(session.labels).sort();
  return pairs.map(([key, value]) => h("bdi", { class: "label" }, value ? `${key}=${value}` : key));
}
