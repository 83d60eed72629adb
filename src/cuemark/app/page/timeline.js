// A video's time from left to right: a ruler, a curve for each sentence, a lane for each source of moments.

import { clock, draw, make, MEANING } from "./api.js";

const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
const FARTHEST = 400;

/** Rows such that no two bars of one row overlap; the first free one each. */
export function rows(segments) {
  const ends = [], place = [];
  for (const i of [...segments.keys()].sort((a, b) => segments[a].start - segments[b].start)) {
    const { start, end } = segments[i];
    let row = ends.findIndex((last) => last <= start + 1e-6);
    if (row < 0) row = ends.push(0) - 1;
    ends[row] = Math.max(end, start + 1e-3);
    place[i] = row;
  }
  return place;
}

export class Timeline {
  /** `does`: seek(seconds), choose(lane, number), edit(start, end) while a handle is dragged. */
  constructor(duration, does) {
    this.duration = Math.max(duration, 0.1);
    this.does = does;
    this.zoom = 1;
    this.ruler = make("div", { class: "ruler", "aria-hidden": "true" });
    this.scrub = make("input", { type: "range", class: "scrub", min: 0, max: this.duration, step: 0.04, value: 0, "aria-label": "Position in the video", oninput: () => this.does.seek(Number(this.scrub.value)) });
    this.body = make("div", { class: "lanes" });
    this.head = make("div", { class: "playhead", "aria-hidden": "true" });
    this.canvas = make("div", { class: "canvas" }, this.ruler, this.scrub, this.body, this.head);
    this.element = make("div", { class: "scroller", tabindex: -1 }, this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => this.#pressed(event));
    this.element.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoomTo(this.zoom * Math.exp(-event.deltaY / 200), this.#at(event));
    }, { passive: false });
    this.watch = new ResizeObserver(() => this.#rule());
    this.watch.observe(this.element);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * this.duration;
  }

  #pressed(event) {
    if (event.button || event.target.closest(".bar, input")) return;
    const follow = (moved) => this.does.seek(this.#at(moved));
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.addEventListener("pointermove", follow);
    this.canvas.addEventListener("pointerup", () => this.canvas.removeEventListener("pointermove", follow), { once: true });
    this.canvas.addEventListener("pointercancel", () => this.canvas.removeEventListener("pointermove", follow), { once: true });
    follow(event);
  }

  /** Nearer or farther, with `at` seconds staying where they are. */
  zoomTo(zoom, at = this.time ?? 0) {
    const before = this.#x(at);
    this.zoom = Math.min(Math.max(1, zoom), Math.max(1, Math.min(FARTHEST, this.duration / 2)));
    this.canvas.style.width = `${100 * this.zoom}%`;
    this.element.scrollLeft += this.#x(at) - before;
    this.#rule();
  }

  #x(at) {
    return (at / this.duration) * this.canvas.getBoundingClientRect().width;
  }

  #rule() {
    const width = this.canvas.getBoundingClientRect().width || 1;
    const step = STEPS.find((one) => (one / this.duration) * width >= 64) ?? STEPS.at(-1);
    const marks = [];
    for (let i = 0; i * step <= this.duration && marks.length < 4000; i++) {
      if (((this.duration - i * step) / this.duration) * width < 30 && i) break;
      marks.push(make("span", { style: { left: `${(100 * i * step) / this.duration}%` } }, clock(i * step, step < 1 ? 1 : 0)));
    }
    this.ruler.replaceChildren(...marks);
  }

  /** Show lanes and curves; `chosen` is [lane, number] or null, `draft` its times as they are edited. */
  show(lanes, curves, chosen, draft) {
    this.body.replaceChildren(...curves.map((curve) => this.#curve(curve)), ...lanes.map((lane, i) => this.#lane(lane, i, chosen, draft)));
  }

  #curve({ query, seconds, cosines, colour }) {
    const low = Math.min(...cosines), high = Math.max(...cosines), span = Math.max(high - low, 1e-6);
    const points = seconds.map((at, i) => [((1000 * at) / this.duration).toFixed(1), (56 - (52 * (cosines[i] - low)) / span).toFixed(1)]);
    const line = points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join("");
    const area = points.length ? `${line}L${points.at(-1)[0]} 60L${points[0][0]} 60Z` : "";
    const best = seconds[cosines.indexOf(high)] ?? 0;
    return make("div", { class: "lane curve", style: { "--c": colour } },
      make("div", { class: "name" }, make("i", {}), make("span", {}, query), make("small", {}, `likeness ${low.toFixed(2)} to ${high.toFixed(2)}`)),
      draw("svg", { viewBox: "0 0 1000 60", preserveAspectRatio: "none", role: "img", "aria-label": `How like “${query}” the video is: most at ${clock(best)}` },
        draw("path", { class: "area", d: area }), draw("path", { class: "line", d: line, "vector-effect": "non-scaling-stroke" })));
  }

  #lane(lane, number, chosen, draft) {
    const place = rows(lane.segments);
    const depth = Math.max(1, ...place.map((row) => row + 1));
    const bars = lane.segments.map((segment, i) => {
      const isChosen = chosen && chosen[0] === number && chosen[1] === i;
      const { start, end } = isChosen && draft ? draft : segment;
      const text = segment.label ?? segment.sentence ?? segment.query ?? "moment";
      const match = lane.kind === "answer" && segment.score !== null;
      const shown = match ? `match ${segment.score.toFixed(2)}` : text;
      const bar = make("button", { type: "button", class: "bar", "aria-pressed": isChosen ? "true" : "false", title: match ? `${shown}. ${MEANING.match(segment.score)}` : text,
        "aria-label": `${shown === text ? "" : `${shown}, `}${text}, ${clock(start)} to ${clock(end)}, ${lane.name}${match || segment.score === null ? "" : `, score ${segment.score.toFixed(2)}`}`,
        style: { left: `${(100 * start) / this.duration}%`, width: `${(100 * Math.max(end - start, 0)) / this.duration}%`, "--row": place[i], "--o": segment.score === null ? 1 : Math.max(0.15, Math.min(1, segment.score)) },
        onclick: () => this.does.choose(number, i) },
        make("span", {}, shown));
      if (isChosen) bar.append(this.#handle("start", draft ?? segment), this.#handle("end", draft ?? segment));
      return bar;
    });
    return make("div", { class: `lane ${lane.kind}`, role: "group", "aria-label": lane.name, style: { "--c": lane.colour, "--rows": depth } },
      make("div", { class: "name" }, make("i", {}), make("span", {}, lane.name), make("small", {}, lane.of > lane.segments.length ? `the outstanding ${lane.segments.length} of ${lane.of}` : String(lane.segments.length))), make("div", { class: "bars" }, bars));
  }

  #handle(side, times) {
    const handle = make("span", { class: `handle ${side}`, "aria-hidden": "true" });
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      event.stopPropagation();
      const move = (moved) => {
        const at = this.#at(moved);
        const now = side === "start" ? { start: Math.min(at, times.end - 0.05), end: times.end } : { start: times.start, end: Math.max(at, times.start + 0.05) };
        const bar = this.body.querySelector(".bar[aria-pressed=true]");
        if (bar) {
          bar.style.left = `${(100 * now.start) / this.duration}%`;
          bar.style.width = `${(100 * (now.end - now.start)) / this.duration}%`;
        }
        this.does.edit(Math.max(0, now.start), Math.min(this.duration, now.end), side, false);
        return now;
      };
      const stop = (ended) => {
        removeEventListener("pointermove", move);
        const now = move(ended);
        this.does.edit(Math.max(0, now.start), Math.min(this.duration, now.end), side, true);
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", stop, { once: true });
    });
    handle.addEventListener("click", (event) => event.stopPropagation());
    return handle;
  }

  /** Where the film is; a playing one is kept in sight. */
  at(time, playing) {
    this.time = time;
    this.head.style.left = `${(100 * Math.min(time, this.duration)) / this.duration}%`;
    if (document.activeElement !== this.scrub) this.scrub.value = time;
    this.scrub.setAttribute("aria-valuetext", clock(time));
    if (playing && this.zoom > 1) this.see(time);
  }

  /** Scroll so that a time is seen. */
  see(time) {
    const x = this.#x(time), { scrollLeft, clientWidth } = this.element;
    if (x < scrollLeft + 20 || x > scrollLeft + clientWidth - 40) this.element.scrollLeft = x - clientWidth * 0.2;
  }

  /** Let go of what watches. */
  close() {
    this.watch.disconnect();
  }
}
