// Elements, made from text and nothing but text: what callers have written cannot become markup.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  CONNECTED: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Zm3.6 4.2L7 9.8 4.4 7.2 3.2 8.4 7 12.2l5.8-5.8Z",
  CONNECTING: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Zm0 2a5 5 0 0 0 0 10Z",
  RECONNECTING: "M8 2a6 6 0 0 1 5 2.7V2h2v6H9V6h2.8A4 4 0 1 0 12 9h2a6 6 0 1 1-6-7Z",
  FAILED: "M3.8 2 8 6.2 12.2 2 14 3.8 9.8 8l4.2 4.2-1.8 1.8L8 9.8 3.8 14 2 12.2 6.2 8 2 3.8Z",
  DISCONNECTED: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Zm0 2a5 5 0 1 0 0 10A5 5 0 0 0 8 3Z",
  act: "M8 1 15.5 14.5H.5Zm-1 5v4.2h2V6Zm0 5.2v1.9h2v-1.9Z",
  wait: "M3 1h10v2.6L9.6 8l3.4 4.4V15H3v-2.4L6.4 8 3 3.6Z",
  note: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1ZM7 4v2h2V4Zm0 3.2v5h2v-5Z",
};

// h("p", { class: "x", onclick: f }, "text", element): null and undefined are left out.
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  put(element, children);
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  for (const [key, value] of [
    ["viewBox", "0 0 16 16"],
    ["aria-hidden", "true"],
    ["class", "icon"],
  ]) {
    svg.setAttribute(key, value);
  }
  path.setAttribute("d", ICONS[name] ?? ICONS.note);
  path.setAttribute("fill-rule", "evenodd");
  svg.append(path);
  return svg;
}

export function put(element, ...children) {
  const there = children.flat(Infinity).filter((child) => child !== null && child !== undefined);
  element.replaceChildren(...there);
}

// Make the children of an element those of a list: one whose item is as it was stays as it is, and
// what has the focus keeps it.
export function list(parent, items, key, render) {
  const focused = document.activeElement?.closest("[data-key]");
  const focusedKey = parent.contains(focused) ? focused.dataset.key : null;
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    const print = JSON.stringify(item);
    let node = old.get(name);
    old.delete(name);
    if (node?.print !== print) {
      const fresh = render(item);
      fresh.dataset.key = name;
      fresh.print = print;
      if (node) {
        fresh.classList.add("changed");
        if (place === node) place = fresh;
        node.replaceWith(fresh);
      }
      node = fresh;
    }
    if (place === node) place = node.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
  if (focusedKey !== null && !parent.contains(document.activeElement)) {
    const node = [...parent.children].find((child) => child.dataset.key === focusedKey);
    (node?.matches("button, [tabindex]") ? node : node?.querySelector("button, a, [tabindex]"))?.focus();
  }
}
