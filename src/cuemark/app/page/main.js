// Which page is shown, and the pages that list: the library, answers to a search, videos.

import { ask, attempt, clock, count, icon, make, MEANING, say, thumbnail, videoPage } from "./api.js";
import { exportDialog, keysDialog, menuDialog, setColours } from "./dialogs.js";
import { showVideo } from "./player.js";

const main = document.getElementById("main");
const query = document.getElementById("query");
let about = null;
let leave = () => {};
let asking = null;

/** What is known of the library as a whole; asked once. */
export async function library(again = false) {
  if (about === null || again) about = await ask("/index.json");
  return about;
}

/** Go to an address of this page. */
export function go(to, replace = false) {
  history[replace ? "replaceState" : "pushState"](null, "", to);
  return show();
}

async function show() {
  leave();
  leave = () => {};
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const address = new URL(location.href);
  const words = address.searchParams;
  query.value = address.pathname === "/video" ? (words.getAll("q").at(-1) ?? "") : (words.get("q") ?? "");
  document.body.dataset.page = address.pathname;
  try {
    if (address.pathname === "/search") await searchPage(words, signal);
    else if (address.pathname === "/videos") await videosPage(words, signal);
    else if (address.pathname === "/video") leave = await showVideo(main, words, signal, { go, library });
    else await firstPage(signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    main.replaceChildren(make("h1", { class: "unseen" }, "cuemark"), nothing("That did not work", error.message, make("a", { class: "button", href: "/videos" }, "All videos")));
    document.title = "cuemark";
  }
}

function nothing(title, text, ...more) {
  return make("div", { class: "empty" }, make("h2", {}, title), make("p", {}, text), ...more);
}

// ------------------------------------------------------------------------------------------- first page

async function firstPage(signal) {
  const told = await library();
  document.title = `${told.name} · cuemark`;
  const { videos } = await ask("/videos.json?limit=12", undefined, signal);
  main.replaceChildren(...[
    make("section", { class: "hero" },
      make("h1", {}, "When does it happen?"),
      make("p", {}, told.sentences ? `Say it in a sentence, or pick a class. ${count(told.videos, "video")} in ${told.name}.`
        : `Pick a class, or look for words. ${count(told.videos, "video")} in ${told.name}.`)),
    chips(told, null),
    videos.length ? make("section", { "aria-labelledby": "some" },
      make("div", { class: "head" }, make("h2", { id: "some" }, "Videos"), make("a", { href: "/videos" }, "All of them")),
      make("div", { class: "grid" }, videos.map(videoCard)))
      : nothing("Nothing here yet", "Add videos with the menu, or index a folder: cuemark index VIDEOS --library LIBRARY."),
  ].filter(Boolean));
}

function chips(told, chosen, words = new URLSearchParams()) {
  if (!told.labels.length) return null;
  const link = ({ label, count: number }) => {
    const to = new URLSearchParams(words);
    if (label === chosen) to.delete("label");
    else to.set("label", label);
    return make("a", { class: "chip", href: `/search?${to}`, "aria-current": label === chosen ? "true" : null },
      make("span", {}, label), make("small", { "aria-label": count(number, "moment") }, String(number)));
  };
  const shown = told.labels.slice(0, 14), rest = told.labels.slice(14);
  const at = rest.findIndex((one) => one.label === chosen);
  if (at >= 0) shown.push(...rest.splice(at, 1));
  return make("nav", { class: "chips", "aria-label": "Classes" }, shown.map(link),
    rest.length ? make("details", {}, make("summary", { class: "chip" }, `${rest.length} more`),
      make("div", { class: "chips" }, rest.map(link))) : null);
}

function videoCard(video) {
  const usable = video.state === "ok";
  return make("article", { class: "card" },
    make("a", { href: videoPage(video.id), class: "shot" },
      usable ? make("img", { src: thumbnail(video.id, video.duration / 2), alt: "", loading: "lazy", width: 320, height: 180 }) : make("span", { class: "lost" }, video.state),
      usable ? make("span", { class: "time" }, clock(video.duration, 0)) : null,
      make("span", { class: "said" }, video.file)));
}

// ------------------------------------------------------------------------------------------- videos

async function videosPage(words, signal) {
  const told = await library();
  document.title = `Videos · cuemark`;
  const offset = Number(words.get("offset") ?? 0), limit = 60;
  const asked = new URLSearchParams(words);
  asked.set("limit", limit);
  const { videos } = await ask(`/videos.json?${asked}`, undefined, signal);
  const page = (to) => { const next = new URLSearchParams(words); next.set("offset", to); return `/videos?${next}`; };
  main.replaceChildren(
    make("div", { class: "head" }, make("h1", {}, "Videos"), make("p", {}, count(told.videos, "video"))),
    videos.length ? make("div", { class: "grid" }, videos.map(videoCard)) : nothing("None", "There is no video here."),
    make("nav", { class: "pager", "aria-label": "Pages" },
      offset > 0 ? make("a", { href: page(Math.max(0, offset - limit)) }, "Earlier") : null,
      videos.length === limit ? make("a", { href: page(offset + limit) }, "Later") : null));
}

// ------------------------------------------------------------------------------------------- search

async function searchPage(words, signal) {
  const told = await library();
  const asked = words.get("q") ?? "", label = words.get("label");
  document.title = `${asked || label || "Search"} · cuemark`;
  const list = make("div", { class: "grid", "aria-busy": "true" }, Array.from({ length: 8 }, () => make("div", { class: "card ghost" })));
  const head = make("div", { class: "head" }, make("h1", {}, asked || label || "Search"));
  const frame = [chips(told, label, words), filters(told, words), head, list];
  main.replaceChildren(...frame.filter(Boolean));
  let found;
  if (!asked.trim() && !label && !words.get("like")) {
    list.replaceWith(nothing("What do you look for?", told.sentences ? "Say what happens in it, in a sentence, or choose a class." : "Choose a class, or look for words."));
    return;
  }
  try {
    found = await ask(`/search.json?${words}`, undefined, signal);
  } catch (error) {
    if (error.name !== "AbortError") list.replaceWith(nothing("That cannot be asked", error.message));
    return;
  }
  list.removeAttribute("aria-busy");
  const chosen = new Set();
  const takeAll = make("button", { type: "button", class: "quiet", onclick: () => exportDialog(told, chosen.size ? found.hits.filter((_, i) => chosen.has(i)) : found.hits) }, icon("take"), make("span", {}, "Export"));
  const tally = make("p", { class: "tally" });
  const recount = () => {
    tally.textContent = chosen.size ? `${count(chosen.size, "moment")} chosen` : `${count(found.hits.length, "moment")}${found.seconds ? ` in ${found.seconds.toFixed(2)} s` : ""}`;
    takeAll.lastChild.textContent = chosen.size ? `Export ${chosen.size}` : "Export";
  };
  if (words.get("like")) head.querySelector("h1").textContent = found.query;
  head.append(tally, takeAll);
  recount();
  if (!found.hits.length) {
    takeAll.hidden = true;
    const any = new URLSearchParams(words);
    any.set("any", "true");
    list.replaceWith(nothing("Nothing found", found.best === null ? "No video has it." :
      `No moment stands out from chance: the nearest match is ${Math.round(100 * found.best)} of 100, and ${Math.round(100 * found.floor)} is asked for.`,
      asked && !words.get("any") ? make("a", { class: "button", href: `/search?${any}` }, "Show the nearest anyway") : null));
    say("nothing found", "quietly");
    return;
  }
  const kind = words.get("like") ? "likeness" : asked.trim() ? "match" : "score";
  if (kind === "match" && found.hits.some((hit) => hit.score !== null)) {
    list.before(make("p", { class: "soft note" }, "A full bar is a match that stands out from chance. It can still be the wrong moment: look."));
  }
  list.replaceChildren(...found.hits.map((hit, i) => hitCard(hit, i, asked, kind, (on) => { chosen[on ? "add" : "delete"](i); recount(); })));
  say(count(found.hits.length, "moment"), "quietly");
}

function hitCard(hit, number, asked, kind, choose) {
  const [start, end] = hit.segment;
  const when = `${clock(start)} – ${clock(end)}`;
  return make("article", { class: "card hit" },
    make("a", { class: "shot", href: videoPage(hit.id, { q: asked, t: start.toFixed(2), to: end.toFixed(2), label: hit.label }) },
      make("img", { src: thumbnail(hit.id, hit.picture), alt: "", loading: "lazy", width: 320, height: 180 }),
      make("span", { class: "time" }, when),
      make("span", { class: "said" }, hit.file),
      make("span", { class: "why" }, hit.why, hit.also.length ? ` · also in ${hit.also.join(", ")}` : ""),
      hit.score === null ? null : make("span", { class: "strength", style: { "--strength": hit.score }, role: "img", title: MEANING[kind](hit.score), "aria-label": `${kind} ${hit.score.toFixed(2)}. ${MEANING[kind](hit.score)}` }, make("i", {}), make("small", { "aria-hidden": "true" }, kind))),
    make("label", { class: "choose" }, make("input", { type: "checkbox", "aria-label": `Choose ${hit.file} ${when}`, onchange: (event) => choose(event.target.checked) })));
}

function filters(told, words) {
  const field = (name, text, type, more = {}) => make("label", {}, make("span", {}, text),
    make("input", { name, type, value: words.get(name) ?? "", ...more }));
  const tick = (name, text) => make("label", { class: "tick" }, make("input", { name, type: "checkbox", value: "true", checked: words.get(name) === "true" }), make("span", {}, text));
  const names = ["longer", "shorter", "since", "until", "said", "any", "refine"];
  const set = names.filter((name) => words.get(name)).length;
  const form = make("form", { class: "filters", onsubmit: (event) => {
    event.preventDefault();
    const to = new URLSearchParams();
    for (const name of ["q", "label", "like", "start", "end"]) if (words.get(name)) to.set(name, words.get(name));
    for (const [name, value] of new FormData(form)) if (value !== "") to.set(name, value);
    go(`/search?${to}`);
  } },
    field("longer", "at least, s", "number", { min: 0, step: "any" }), field("shorter", "at most, s", "number", { min: 0, step: "any" }),
    field("since", "from", "date"), field("until", "to", "date"), field("said", "said or written in it", "text", { maxlength: 200 }),
    told.sentences ? tick("any", "weak matches, too") : null, told.refines ? tick("refine", "refine the bounds") : null,
    make("button", { type: "submit" }, "Apply"));
  return make("details", { class: "narrow", open: names.some((name) => name !== "any" && name !== "refine" && words.get(name)) }, make("summary", { class: "quiet" }, icon("filter"), make("span", {}, set ? `Filters (${set})` : "Filters")), form);
}

// ------------------------------------------------------------------------------------------- everywhere

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='/']");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || link.target || link.download) return;
  event.preventDefault();
  go(link.getAttribute("href")).then(() => { scrollTo(0, 0); main.focus({ preventScroll: true }); });
});
document.querySelector("form.search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = query.value.trim();
  const here = new URL(location.href);
  const words = new URLSearchParams(here.pathname === "/search" ? here.search : "");
  for (const name of ["like", "start", "end", "any"]) words.delete(name);
  if (text) words.set("q", text);
  else words.delete("q");
  query.blur();
  go([...words].length ? `/search?${words}` : "/");
});
document.getElementById("more").addEventListener("click", () => attempt(async () => menuDialog(await library(), { go, library })));
document.addEventListener("keydown", (event) => {
  if (event.target.closest?.("input, select, textarea, dialog") || event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "?") keysDialog();
});
addEventListener("popstate", show);
setColours();
show();
