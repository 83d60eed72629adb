// What opens over the page: export, keys, and the menu (more videos, colours).

import { ask, attempt, count, download, ended, follow, icon, make, say } from "./api.js";

const COLOURS = ["system", "light", "dark"];

/** The colours that were chosen, by the system or by hand. */
export function setColours(to) {
  try {
    if (to) localStorage.setItem("colours", to);
    to = localStorage.getItem("colours") ?? "system";
  } catch { // a browser that remembers nothing
    to ??= "system";
  }
  if (to === "system") delete document.documentElement.dataset.colours;
  else document.documentElement.dataset.colours = to;
  return to;
}

function open(title, ...content) {
  const head = make("h2", {}, title);
  const dialog = make("dialog", { "aria-label": title, onclose: () => { status(); dialog.remove(); }, onclick: (event) => { if (event.target === dialog) dialog.close(); } },
    make("div", { class: "sheet" },
      make("div", { class: "head" }, head, make("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => dialog.close() }, icon("close"))),
      ...content));
  document.body.append(dialog);
  dialog.showModal();
  status();
  return dialog;
}

/** What is said is seen and heard only in the dialog on top, for whatever is outside is shut off meanwhile. */
function status() {
  ([...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body).append(document.getElementById("status"));
}

/** Take moments away as a file. */
export function exportDialog(told, moments) {
  const sent = moments.map((one) => ({ id: one.id, start: one.segment[0], end: one.segment[1], label: one.label ?? null, query: one.query ?? null, score: one.score ?? null }));
  const groups = new Map();
  for (const form of told.formats) groups.set(form.group, [...(groups.get(form.group) ?? []), form]);
  const take = (form) => attempt(async () => {
    await download("/export", { format: form.name, moments: sent });
    say(`${count(sent.length, "moment")} as ${form.title}`);
    dialog.close();
  });
  const section = ([group, forms]) => make("section", {}, make("h3", {}, group), make("div", { class: "formats" },
    forms.map((form) => make("button", { type: "button", "data-format": form.name, onclick: () => take(form) }, make("b", {}, form.name), make("small", {}, form.title)))));
  const [benchmarks, others] = [[...groups].filter(([group]) => group === "Benchmarks"), [...groups].filter(([group]) => group !== "Benchmarks")];
  const dialog = open(`Export ${count(sent.length, "moment")}`,
    sent.length === 1 ? make("section", {}, make("h3", {}, "Film"), make("div", { class: "formats" },
      [["copy", "Packets as they are: at once", false], ["exact", "Encoded again, to the frame", true]].map(([name, title, exact]) =>
        make("button", { type: "button", "data-format": `clip-${name}`, onclick: () => attempt(async () => { say("cutting …"); await download("/cut", { ...sent[0], exact }); dialog.close(); }) },
          make("b", {}, `clip, ${name}`), make("small", {}, title))))) : null,
    ...others.map(section),
    ...benchmarks.map((one) => make("details", {}, make("summary", {}, "Formats of benchmarks"), section(one))));
}

const KEYS = [["Space, K", "play or pause"], ["J, L", "5 s back, 5 s on"], ["← →", "one picture back or on; with Shift 1 s"], ["↑ ↓", "the moment before, the next one"],
  ["I, O", "the chosen moment begins, ends here"], ["Enter", "accept it: it is saved"], ["N", "a new moment here"], ["Delete", "take an accepted moment back"], ["+ − 0", "nearer, farther, all of it"],
  ["F", "full screen"], ["/", "search"], ["?", "these keys"]];

/** What the keys do. */
export function keysDialog() {
  open("Keys", make("dl", { class: "keys" }, KEYS.map(([keys, what]) => [make("dt", {}, keys.split(", ").flatMap((key, i) => [i ? " " : "", make("kbd", {}, key)])), make("dd", {}, what)])));
}

/** More videos, colours, keys. */
export function menuDialog(told, { go, library }) {
  const lines = make("ul", { class: "jobs" });
  const watch = (job) => {
    const bar = make("progress", { max: 1, "aria-label": job.about }), text = make("span", {});
    const stop = make("button", { type: "button", class: "icon", "aria-label": `Cancel: ${job.about}`, title: "Cancel",
      onclick: () => attempt(async () => { stop.disabled = true; await ask(`/jobs/${job.number}/cancel`, {}); }) }, icon("close"));
    const line = make("li", {}, text, stop, bar);
    lines.prepend(line);
    return follow(job, (state) => {
      const far = state.total === null ? "" : `${state.done} of ${count(state.total, "video")}`;
      text.textContent = `${state.about}: ${state.state === "running" ? far || state.note || "running" : state.state}${state.state === "failed" ? ` (${state.note})` : ended(state) && far ? `, ${far}` : ""}`;
      if (state.share !== null) bar.value = state.share;
      if (ended(state)) {
        bar.remove();
        stop.remove();
        line.append(...Object.values(state.result.failed ?? {}).slice(0, 5).map((reason) => make("small", {}, reason)));
      }
    }).then(async (state) => {
      const left = Object.keys(state.result?.failed ?? {}).length;
      const found = state.kind === "proxy" ? `${state.about}: ${state.state}` : `${state.state === "cancelled" ? "cancelled: " : ""}${count(state.result?.done?.length ?? 0, "new video")}${left ? `, ${left} left out` : ""}`;
      say(state.state === "failed" ? state.note : found, state.state === "failed" ? "bad" : "");
      await library(true);
      return state;
    });
  };
  const send = (files) => attempt(async () => {
    for (const file of files) {
      const form = new FormData();
      form.append("file", file, file.name);
      say(`sending ${file.name} …`);
      const answer = await fetch("/upload", { method: "POST", body: form });
      const job = await answer.json();
      if (!answer.ok) throw new Error(job.error);
      watch(job);
    }
  });
  const colours = setColours();
  open("Library",
    make("section", {}, make("h3", {}, "More videos"),
      make("div", { class: "row" },
        make("button", { type: "button", onclick: () => attempt(async () => watch(await ask("/jobs", { kind: "index" }))) }, icon("refresh"), make("span", {}, "Look in its folders")),
        told.uploads ? make("label", { class: "button" }, icon("upload"), make("span", {}, "Send videos"), make("input", { type: "file", accept: "video/*", multiple: true, class: "unseen", onchange: (event) => send(event.target.files) })) : null),
      lines),
    make("section", {}, make("h3", { id: "colours" }, "Colours"),
      make("div", { class: "row", role: "radiogroup", "aria-labelledby": "colours" }, COLOURS.map((one) => make("label", { class: "tick" },
        make("input", { type: "radio", name: "colours", value: one, checked: one === colours, onchange: () => setColours(one) }), make("span", {}, one))))),
    make("section", {}, make("h3", {}, "For programs"),
      make("p", {}, "Every page has a twin that ends in .json; ", make("a", { href: "/openapi.json", target: "_blank" }, "openapi.json"), " describes them.")),
    make("section", { class: "wide" }, make("button", { type: "button", class: "quiet", onclick: () => keysDialog() }, "Keys")));
  attempt(async () => { for (const job of (await ask("/jobs.json")).jobs.filter((one) => one.state === "waiting" || one.state === "running")) watch(job); });
}

