// Times and words. All times are by the broker's clock: this browser's may be wrong.

let ahead = 0; // milliseconds by which the broker's clock is ahead of this one

export function setClock(time) {
  ahead = Date.parse(time) - Date.now();
}

export function now() {
  return Date.now() + ahead;
}

export function clock(time) {
  return new Date(time).toLocaleTimeString("en-GB");
}

export function moment(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date(now()).toDateString();
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return today ? clock(time) : `${day} ${clock(time)}`;
}

export function span(milliseconds) {
  const seconds = Math.max(Math.floor(milliseconds / 1000), 0);
  const [minutes, hours, days] = [60, 3600, 86400].map((unit) => Math.floor(seconds / unit));
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${two(minutes % 60)} min`;
  if (minutes) return `${minutes} min ${two(seconds % 60)} s`;
  return `${seconds} s`;
}

export function since(time) {
  return span(now() - Date.parse(time));
}

export function until(time) {
  const left = Date.parse(time) - now();
  return left < 1000 ? "now" : `in ${span(left)}`;
}

// SESSION_STATE_CONNECTED is CONNECTED.
export function state(session) {
  return session.state.replace("SESSION_STATE_", "");
}

export function isFinal(session) {
  return ["FAILED", "DISCONNECTED"].includes(state(session));
}

export function isClosing(session) {
  return Boolean(session.close_reason) && !isFinal(session);
}

export function status(condition) {
  return condition.status.replace("CONDITION_STATUS_", "");
}

export function conditionName(condition) {
  return [condition.type, condition.subject].filter(Boolean).join("/");
}

export function short(sessionId) {
  return sessionId.slice(0, 8);
}

export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function two(number) {
  return String(number).padStart(2, "0");
}
