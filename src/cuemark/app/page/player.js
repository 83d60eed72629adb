// The page of a video: the film, its timeline, and the moment that is looked at, corrected and exported.

import { ask, attempt, clock, count, follow, icon, make, MEANING, say, seconds, thumbnail } from "./api.js";
import { exportDialog } from "./dialogs.js";
import { Timeline } from "./timeline.js";

const COLOURS = ["var(--r1)", "var(--r5)", "var(--r4)", "var(--r6)", "var(--r2)"];
const OTHERS = ["var(--r2)", "var(--r4)", "var(--r5)", "var(--r6)"];
const CLOSE = 0.05;

/** Show a video; returns what has to be done when it is left. */
export async function showVideo(main, words, signal, { go, library }) {
  const id = words.get("id") ?? "";
  const queries = words.getAll("q").filter((one) => one.trim()).slice(0, 5);
  const asked = new URLSearchParams({ id });
  for (const query of queries) asked.append("q", query);
  const [about, told] = await Promise.all([library(), ask(`/video.json?${asked}`, undefined, signal)]);
  document.title = `${told.file} · cuemark`;
  return new Player(main, about, told, queries, words, { go, library }).close;
}

/** The score of a moment, in words where there is room, with what it means. */
function worth(lane, score, words = false) {
  const kind = lane?.kind === "answer" ? "match" : "score";
  return make("small", { title: MEANING[kind](score) }, words ? `${kind} ${score.toFixed(2)}` : score.toFixed(2));
}

class Player {
  constructor(main, about, told, queries, words, ways) {
    Object.assign(this, { about, told, queries, words, ways });
    this.length = told.duration;
    this.chosen = null;
    this.draft = null;
    this.film = make("video", { controls: true, playsinline: true, preload: "auto", "aria-label": told.file });
    this.time = new Timeline(told.duration, {
      seek: (at) => this.seek(at), choose: (lane, i) => this.choose(lane, i, true), edit: (start, end, side, done) => this.edit(start, end, side, done) });
    this.screen = make("div", { class: "screen" }, this.film);
    this.side = make("section", { class: "panel", "aria-label": "The chosen moment" });
    this.list = make("section", { class: "panel list", "aria-label": "Moments of this video" });
    const back = queries.length ? `/search?${new URLSearchParams({ q: queries.at(-1) })}` : "/";
    main.replaceChildren(
      make("div", { class: "head crumbs" }, make("a", { class: "icon", href: back, "aria-label": queries.length ? "Back to the answers" : "Back to the library" }, icon("back")),
        make("h1", {}, told.file), make("p", {}, told.state === "ok" ? clock(told.duration) : told.state)),
      make("div", { class: "stage" },
        make("div", { class: "left" }, this.screen, this.#tools(), make("div", { class: "panel timeline" }, this.time.element)),
        make("aside", { class: "right" }, this.side, this.list)));
    this.#colour();
    this.#load();
    this.keys = (event) => this.#key(event);
    document.addEventListener("keydown", this.keys, true);
    const tick = () => {
      this.time.at(this.film.currentTime, !this.film.paused);
      if (this.until !== null && this.until !== undefined && this.film.currentTime >= this.until && !this.film.paused) {
        this.film.pause();
        this.until = null;
      }
      this.frame = requestAnimationFrame(tick);
    };
    this.frame = requestAnimationFrame(tick);
    this.close = () => {
      cancelAnimationFrame(this.frame);
      document.removeEventListener("keydown", this.keys, true);
      this.time.close();
      this.film.pause();
      this.film.removeAttribute("src");
      this.film.load();
    };
    this.#begin();
  }

  // ------------------------------------------------------------------------------------------ the film

  async #load() {
    const { media, id } = this.told;
    if (media.state === "broken") {
      this.#notice("This film cannot be shown", media.reason);
      return;
    }
    if (media.state === "needed") {
      const bar = make("progress", { "aria-label": "Converting" });
      this.#notice("Converting", `Browsers cannot play it (${media.codec}). A copy that they can is being made, once.`, bar);
      const state = await attempt(async () => follow(await ask("/jobs", { kind: "proxy", id }), () => {}));
      if (state?.state !== "done") {
        this.#notice("This film cannot be shown", state?.note ?? "It could not be converted.");
        return;
      }
      this.screen.replaceChildren(this.film);
    }
    this.film.addEventListener("error", () => this.#notice("This film cannot be shown", "Your browser refuses it."));
    this.film.addEventListener("loadedmetadata", () => { if (this.wanted !== undefined) this.film.currentTime = this.wanted; }, { once: true });
    this.film.poster = thumbnail(id, this.wanted ?? 0, 480);
    this.film.src = `/media?${new URLSearchParams({ id })}`;
  }

  #notice(title, text, ...more) {
    this.screen.replaceChildren(make("div", { class: "notice" }, make("h2", {}, title), make("p", {}, text), ...more));
  }

  seek(at) {
    const to = Math.max(0, Math.min(this.length, at));
    this.wanted = to;
    this.until = null;
    if (this.film.readyState >= 1) this.film.currentTime = to;
    this.time.at(to, false);
  }

  get now() {
    return this.film.readyState >= 1 ? this.film.currentTime : this.wanted ?? 0;
  }

  play(until = null) {
    if (this.film.paused) {
      this.film.play().catch(() => {});
      this.until = until;
    } else this.film.pause();
  }

  // ------------------------------------------------------------------------------------------ lanes

  #colour() {
    let other = 0, answer = 0;
    for (const lane of this.told.lanes) {
      lane.colour = { annotation: "var(--truth)", correction: "var(--r3)", stretch: "var(--r0)" }[lane.kind]
        ?? (lane.kind === "answer" ? COLOURS[answer++ % COLOURS.length] : OTHERS[other++ % OTHERS.length]);
    }
    this.curves = this.told.curves.map((curve, i) => ({ ...curve, colour: COLOURS[i % COLOURS.length] }));
  }

  /** The lanes that are shown: those that hold something. */
  get lanes() {
    return this.told.lanes.filter((lane) => lane.segments.length || lane.kind === "answer");
  }

  get corrected() {
    return this.told.lanes.find((lane) => lane.kind === "correction");
  }

  /** Show all of it anew, or leave the panel and what is typed there; who came by keyboard stays where they were. */
  #show(panel = true) {
    const focused = document.activeElement, name = focused.getAttribute("aria-label");
    const [inBars, inList, inPanel] = [this.time.body, this.list, this.side].map((part) => part.contains(focused) && focused.matches(":focus-visible"));
    this.time.show(this.lanes, this.curves, this.chosen, this.draft);
    if (panel) this.#panel();
    else this.#times();
    this.#listed();
    const find = (part, ...ways) => ways.map((way) => part.querySelector(way)).find(Boolean);
    const again = inBars ? find(this.time.body, "[aria-pressed=true]") ?? [...this.time.body.querySelectorAll(".bar")].find((bar) => bar.getAttribute("aria-label") === name)
      : inList ? find(this.list, "[aria-current]", "button") : inPanel && panel ? find(this.side, ".main", "button") : null;
    again?.focus({ preventScroll: true });
  }

  /** What the address asks for: a time, and the moment that begins there. */
  #begin() {
    const at = Number(this.words.get("t") ?? NaN), to = Number(this.words.get("to") ?? NaN);
    if (Number.isFinite(at)) {
      this.seek(at);
      const kinds = ["answer", "correction", "annotation", "prediction", "stretch"];
      const near = this.lanes.flatMap((lane, i) => lane.segments.map((segment, j) => ({ place: [i, j], kind: kinds.indexOf(lane.kind), off: Math.abs(segment.start - at) + (Number.isFinite(to) ? Math.abs(segment.end - to) : 0) })))
        .filter(({ off }) => off < 2 * CLOSE).sort((a, b) => a.kind - b.kind || a.off - b.off)[0];
      if (near) this.chosen = near.place;
      else if (to > at) this.draft = { start: at, end: to, label: this.words.get("label") ?? "", query: this.queries.at(-1) ?? null };
    }
    if (this.chosen) this.#draft();
    this.#show();
  }

  #draft() {
    const lane = this.lanes[this.chosen[0]], segment = lane.segments[this.chosen[1]];
    const label = segment.label ?? (lane.kind === "answer" ? this.words.get("label") ?? "" : "");
    this.draft = { start: segment.start, end: segment.end, label, sentence: segment.sentence ?? (lane.kind === "answer" ? segment.query : null), score: segment.score };
  }

  choose(lane, number, jump) {
    this.chosen = [lane, number];
    this.#draft();
    if (jump) this.seek(this.draft.start);
    this.time.see(this.draft.start);
    this.#show();
  }

  edit(start, end, side, done) {
    if (!this.draft) return;
    Object.assign(this.draft, { start, end });
    this.seek(side === "start" ? start : end);
    if (done) this.#show();
    else this.#times();
  }

  // ------------------------------------------------------------------------------------------ the moment

  #times() {
    for (const side of ["start", "end"]) {
      const field = this.side.querySelector(`[name=${side}]`);
      if (field) field.value = clock(this.draft[side], 2);
    }
  }

  #panel() {
    if (!this.draft) {
      this.side.replaceChildren(make("h2", {}, "Moment"), make("p", { class: "soft" }, "Choose one in the timeline, or mark a new one."),
        make("button", { type: "button", onclick: () => this.fresh() }, icon("plus"), make("span", {}, "New moment here")));
      return;
    }
    const lane = this.chosen ? this.lanes[this.chosen[0]] : null;
    const field = (side, text, key) => make("label", {}, make("span", {}, text), make("span", { class: "both" },
      make("input", { name: side, value: clock(this.draft[side], 2), inputmode: "decimal", autocomplete: "off", "aria-label": side === "start" ? "Begins" : "Ends", onchange: (event) => {
        const value = seconds(event.target.value);
        if (Number.isFinite(value)) this.bound(side, value);
        else this.#times();
      } }),
      make("button", { type: "button", class: "quiet", "aria-label": `${text} where the film is`, title: `Here (${key})`, onclick: () => this.bound(side, this.now) }, key)));
    const words = (name, text, more = {}) => make("label", {}, make("span", {}, text), make("input", { name, value: this.draft[name] ?? "", maxlength: 500, autocomplete: "off", oninput: (event) => { this.draft[name] = event.target.value; }, ...more }));
    this.side.replaceChildren(
      make("div", { class: "head" }, make("h2", {}, lane?.kind === "correction" ? "Accepted" : "Moment"), make("small", {}, lane ? lane.name : "new",
        this.draft.score === null || this.draft.score === undefined ? "" : [" · ", worth(lane, this.draft.score, true)])),
      make("form", { class: "moment", onsubmit: (event) => { event.preventDefault(); this.accept(); } },
        make("div", { class: "pair" }, field("start", "Begins", "I"), field("end", "Ends", "O")),
        words("label", "Class", { list: "labels" }), words("sentence", "In words"),
        make("datalist", { id: "labels" }, this.about.labels.map(({ label }) => make("option", { value: label }))),
        make("div", { class: "row" },
          make("button", { type: "submit", class: "main" }, icon("check"), make("span", {}, "Accept")),
          make("button", { type: "button", onclick: () => { this.seek(this.draft.start); this.film.pause(); this.play(this.draft.end); } }, icon("play"), make("span", {}, "Play it")),
          lane?.kind === "correction" ? make("button", { type: "button", class: "quiet", onclick: () => this.takeBack() }, icon("trash"), make("span", {}, "Take back")) : null),
        make("div", { class: "row" },
          make("button", { type: "button", class: "quiet", onclick: () => this.take() }, icon("take"), make("span", {}, "Export")),
          make("button", { type: "button", class: "quiet", onclick: () => this.ways.go(`/search?${new URLSearchParams({ like: this.told.id, start: this.draft.start.toFixed(2), end: this.draft.end.toFixed(2) })}`) }, icon("like"), make("span", {}, "More like it")))));
  }

  #listed() {
    const lane = this.chosen ? this.lanes[this.chosen[0]] : this.lanes.find((one) => one.segments.length);
    const number = this.lanes.indexOf(lane);
    if (!lane) {
      this.list.hidden = true;
      return;
    }
    this.list.hidden = false;
    this.list.replaceChildren(
      make("div", { class: "head" }, make("h2", {}, lane.name), make("small", {}, count(lane.segments.length, "moment"))),
      make("ol", {}, lane.segments.map((segment, i) => make("li", {}, make("button", { type: "button", "aria-current": this.chosen && this.chosen[1] === i ? "true" : null, onclick: () => this.choose(number, i, true) },
        make("span", { class: "when" }, `${clock(segment.start)} – ${clock(segment.end)}`), make("span", {}, segment.label ?? segment.sentence ?? segment.query ?? ""),
        segment.score === null ? null : worth(lane, segment.score))))));
  }

  fresh() {
    const at = Math.min(this.now, Math.max(0, this.length - 0.1));
    this.chosen = null;
    this.draft = { start: at, end: Math.min(this.length, at + 2), label: "", sentence: null, score: null };
    this.#show();
    say("a new moment: I and O set its bounds, Enter accepts it");
  }

  /** Set one boundary; the other gives way where they would cross. */
  bound(side, at) {
    if (!this.draft) this.fresh();
    const to = Math.max(0, Math.min(this.length, at));
    this.draft[side] = to;
    if (this.draft.end <= this.draft.start) this.draft[side === "start" ? "end" : "start"] = side === "start" ? Math.min(this.length, to + 0.5) : Math.max(0, to - 0.5);
    this.#show(false);
    say(`${side === "start" ? "begins" : "ends"} at ${clock(to, 2)}`);
  }

  async accept() {
    if (!this.draft) return;
    const { start, end, label, sentence } = this.draft;
    const kept = this.corrected.segments.filter((_, i) => !(this.chosen && this.lanes[this.chosen[0]] === this.corrected && this.chosen[1] === i));
    await this.#save([...kept, { start, end, label: label?.trim() || null, sentence: sentence?.trim() || null }], `accepted ${clock(start, 2)} – ${clock(end, 2)}`, { start, end });
  }

  async takeBack() {
    if (!this.chosen || this.lanes[this.chosen[0]] !== this.corrected) return;
    await this.#save(this.corrected.segments.filter((_, i) => i !== this.chosen[1]), "taken back", null);
  }

  #save(segments, said, then) {
    return attempt(async () => {
      const sent = segments.map(({ start, end, label, sentence }) => ({ id: this.told.id, start: Number(start.toFixed(3)), end: Number(Math.min(end, this.length).toFixed(3)), label, sentence }));
      const answer = await ask("/corrections.json", { id: this.told.id, segments: sent });
      this.corrected.segments = answer.segments;
      this.chosen = this.draft = null;
      if (then) {
        const i = answer.segments.findIndex((one) => Math.abs(one.start - then.start) < CLOSE && Math.abs(one.end - then.end) < CLOSE);
        if (i >= 0) {
          this.chosen = [this.lanes.indexOf(this.corrected), i];
          this.#draft();
        }
      }
      this.#show();
      say(said, "good");
      this.ways.library(true).catch(() => {});
    });
  }

  /** Export the chosen moment, or all of the lane. */
  take(all = false) {
    const lane = this.chosen ? this.lanes[this.chosen[0]] : null;
    const from = all && lane ? lane.segments : this.draft ? [this.draft] : [];
    if (from.length) exportDialog(this.about, from.map((one) => ({ id: this.told.id, segment: [one.start, one.end], label: one.label || null, query: one.query ?? one.sentence ?? null, score: one.score ?? null })));
  }

  // ------------------------------------------------------------------------------------------ tools and keys

  #tools() {
    const button = (name, text, work) => make("button", { type: "button", class: "icon", "aria-label": text, title: text, onclick: work }, icon(name));
    return make("div", { class: "tools" },
      make("form", { class: "another", onsubmit: (event) => {
        event.preventDefault();
        const text = new FormData(event.target).get("q").trim();
        if (!text) return;
        const words = new URLSearchParams(this.words);
        words.delete("q");
        for (const one of [...this.queries.filter((one) => one !== text).slice(-4), text]) words.append("q", one);
        for (const name of ["t", "to", "label"]) words.delete(name);
        this.ways.go(`/video?${words}`);
      } }, this.about.sentences ? [make("input", { name: "q", maxlength: 500, autocomplete: "off", "aria-label": "Ask this video another sentence", placeholder: this.queries.length ? "Compare another sentence" : "Ask this video" }), make("button", { type: "submit" }, "Ask")] : []),
      make("div", { class: "row" }, button("minus", "Farther", () => this.time.zoomTo(this.time.zoom / 1.6)), button("fit", "All of it", () => this.time.zoomTo(1)), button("plus", "Nearer", () => this.time.zoomTo(this.time.zoom * 1.6)),
        button("take", "Export the moments of this lane", () => {
          if (!this.chosen) {
            const lane = this.lanes.findIndex((one) => one.segments.length);
            if (lane < 0) return say("there is no moment to export");
            this.choose(lane, 0, false);
          }
          this.take(true);
        })));
  }

  #next(step) {
    const lane = this.chosen ? this.chosen[0] : this.lanes.findIndex((one) => one.segments.length);
    if (lane < 0) return;
    const size = this.lanes[lane].segments.length;
    const order = [...Array(size).keys()].sort((a, b) => this.lanes[lane].segments[a].start - this.lanes[lane].segments[b].start);
    const at = this.chosen ? order.indexOf(this.chosen[1]) + step : 0;
    this.choose(lane, order[(at + size) % size], true);
  }

  #key(event) {
    if (event.metaKey || event.ctrlKey || event.altKey || event.target.closest?.("dialog, select, textarea")) return;
    const field = event.target.closest?.("input");
    if (field && field !== this.time.scrub) return;
    const onButton = event.target.closest?.("button, a, summary, label"), onChosen = event.target.closest?.(".bar[aria-pressed=true], .list [aria-current]");
    const picture = 1 / 25;
    const does = {
      " ": onButton && !onChosen ? null : () => this.play(), k: () => this.play(), j: () => this.seek(this.now - 5), l: () => this.seek(this.now + 5),
      ArrowLeft: () => this.seek(this.now - (event.shiftKey ? 1 : picture)), ArrowRight: () => this.seek(this.now + (event.shiftKey ? 1 : picture)),
      ArrowUp: () => this.#next(-1), ArrowDown: () => this.#next(1), i: () => this.bound("start", this.now), o: () => this.bound("end", this.now),
      Enter: (onButton && !onChosen) || !this.draft ? null : () => this.accept(), n: () => this.fresh(), Delete: () => this.takeBack(), Escape: this.draft ? () => { this.chosen = this.draft = null; this.#show(); } : null,
      "+": () => this.time.zoomTo(this.time.zoom * 1.6), "=": () => this.time.zoomTo(this.time.zoom * 1.6), "-": () => this.time.zoomTo(this.time.zoom / 1.6), 0: () => this.time.zoomTo(1),
      f: () => (document.fullscreenElement ? document.exitFullscreen() : this.film.requestFullscreen?.()),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!does) return;
    event.preventDefault();
    event.stopPropagation();
    does();
  }
}
