// What every part of the page uses: asking the server, making elements, words for times, and the status line.

/** Ask for JSON; a refusal becomes an Error with the server's sentence. */
export async function ask(path, told, signal) {
  const options = told === undefined ? { signal } : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(told), signal };
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(await reason(answer));
  return answer.json();
}

async function reason(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `the server answered ${answer.status}.`;
  }
}

/** Send JSON and save what comes back under the name that the server gives it. */
export async function download(path, told) {
  const answer = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(told) });
  if (!answer.ok) throw new Error(await reason(answer));
  const name = /filename\*=utf-8''(.+)/.exec(answer.headers.get("Content-Disposition") ?? "");
  const link = make("a", { href: URL.createObjectURL(await answer.blob()), download: name ? decodeURIComponent(name[1]) : "moments" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** An element: attributes, on… listeners, and children. Text is only ever text, whatever it holds. */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "class") element.className = value;
    else if (["value", "checked", "disabled", "hidden", "textContent"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SHAPES = "http://www.w3.org/2000/svg";

/** An element of a drawing. */
export function draw(tag, given = {}, ...children) {
  const element = document.createElementNS(SHAPES, tag);
  for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const ICONS = {
  play: "M6 4l10 6-10 6z", pause: "M6 4v12M14 4v12", plus: "M10 4v12M4 10h12", minus: "M4 10h12", fit: "M3 8V3h5M17 8V3h-5M3 12v5h5M17 12v5h-5",
  take: "M10 3v10m-4-4 4 4 4-4M4 17h12", like: "M4 4h6v6H4zM12 12h5v5h-5zM12 4h5v5h-5z", check: "M4 10.500l4 4 8-9", trash: "M4 6h12M8 6V4h4v2M6 6l1 11h6l1-11",
  close: "M5 5l10 10M15 5L5 15", back: "M12 4l-6 6 6 6", upload: "M10 14V4m-4 4 4-4 4 4M4 17h12", refresh: "M16 10a6 6 0 1 1-2-4.500M16 3v4h-4", filter: "M3 5h14M6 10h8M8.500 15h3",
};

/** One of our own icons; it says nothing to screen readers. */
export function icon(name) {
  return draw("svg", { viewBox: "0 0 20 20", "aria-hidden": "true", class: `i-${name}` }, draw("path", { d: ICONS[name] }));
}

/** 0:07.4, 12:31.0, 1:02:03.5 */
export function clock(seconds, digits = 1) {
  const whole = Math.max(0, Math.round(seconds * 10 ** digits) / 10 ** digits);
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  const rest = (whole % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** The seconds that such a time means; NaN where it is none. */
export function seconds(text) {
  const parts = text.trim().split(":");
  if (!parts.length || parts.length > 3 || parts.some((part) => !/^\d+(\.\d*)?$/.test(part))) return NaN;
  return parts.reduce((sum, part) => 60 * sum + Number(part), 0);
}

/** "3 moments", "1 moment" */
export const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

let quiet;

/** Say something to everybody, screen readers too; `quietly` to those alone. */
export function say(text, kind = "") {
  const line = document.getElementById("status");
  line.textContent = text;
  line.dataset.kind = kind;
  line.classList.toggle("shown", kind !== "quietly");
  clearTimeout(quiet);
  quiet = setTimeout(() => line.classList.remove("shown"), kind === "bad" ? 8000 : 3500);
}

/** Do something that may be refused; the reason is said. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, "bad");
    return undefined;
  }
}

/** Whether nothing more will happen to a job. */
export const ended = (job) => ["done", "failed", "cancelled"].includes(job.state);

/** Follow a job until it has ended. */
export function follow(job, told) {
  return new Promise((resolve) => {
    const events = new EventSource(`/jobs/${job.number}/events`);
    events.onmessage = (event) => {
      const state = JSON.parse(event.data);
      told(state);
      if (ended(state)) {
        events.close();
        resolve(state);
      }
    };
    events.onerror = () => {
      if (events.readyState === EventSource.CLOSED) resolve({ state: "failed", note: "the server is gone." });
    };
  });
}

/** What a moment's score means, for people: a match is no promise that the answer is right. */
export const MEANING = {
  match: (score) => `Of 100 sentences about nothing, ${Math.round(100 * score)} find less here that is like them. It does not say that this is the right moment.`,
  likeness: () => "How like the example it looks: 1 is the same.",
  score: () => "What the source of this moment says.",
};

/** The picture shown at a moment. */
export const thumbnail = (id, at, height = 180) => `/thumbnail.jpg?${new URLSearchParams({ id, t: at.toFixed(1), h: height })}`;

/** The page of a video. */
export function videoPage(id, more = {}) {
  const words = new URLSearchParams({ id });
  for (const [name, value] of Object.entries(more)) if (value !== "" && value !== undefined && value !== null) words.append(name, value);
  return `/video?${words}`;
}
