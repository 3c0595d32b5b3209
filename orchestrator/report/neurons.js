// The neuron explorer: a table that is searched and sorted, and the drawing of the neuron chosen.
//
// `neurons.py` says which neurons are here, `carried.py` how their histograms are written. All that
// is shown is read from there; what is computed here is only where things lie in a drawing.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const holder = document.getElementById("neurons");
  if (!holder) return;
  const { element, draw, resized, save } = window.peaksweep;
  const found = window.peaksweep.data("neurons");
  const PAGE = 25;
  const FOOT = 150;
  const NONE = "–";

  // Numbers and words. ---------------------------------------------------------------------------

  const signed = (text) => text.replace("-", "−").replace("e-", "e−");
  /** A place on a neuron's axis, with the digits that the page carries. */
  const place = (value) => (value === null || value === undefined ? NONE : signed(String(value)));
  const short = (value) => (value === null ? NONE : signed(String(Number(value.toPrecision(4)))));
  const share = (value) => (value === null ? NONE : `${Number((100 * value).toPrecision(3))} %`);
  const called = (row) => `layer ${row.layer}${row.head === null ? "" : ` · head ${row.head}`} · neuron ${row.neuron}`;
  const stable = (value) => (value === null ? NONE : value ? "yes" : "no");

  /** Headings: field, words, what a cell says, whether the largest come first, and what it means. */
  const COLUMNS = [
    ["layer", "layer", (row) => String(row.layer), false, ""],
    ["head", "head", (row) => (row.head === null ? NONE : String(row.head)), false, ""],
    ["neuron", "neuron", (row) => String(row.neuron), false, "place in its layer, from 0"],
    ["mean", "mean", (row) => place(row.mean), true, ""],
    ["std", "s.d.", (row) => short(row.std), true, ""],
    ["peak", "peak", (row) => place(row.peak), true, found.peak],
    ["apart", "|mean−peak|", (row) => short(row.apart), true, "in s.d."],
    ["modes", "modes", (row) => (row.modes > 1 ? `${row.modes} (${share(row.second)})` : String(row.modes ?? NONE)), true, "in brackets the share of the second"],
    ["kurtosis", "kurtosis", (row) => short(row.kurtosis), true, "excess over a normal distribution’s"],
    ["zero_share", "zeros", (row) => share(row.zero_share), true, "share of the values that are exactly 0"],
    ["stable", "stable", (row) => stable(row.stable), false, "whether the peak is the same at all scales"],
  ];

  /** The neurons of a collection as rows, made when it is first looked at. */
  function rowsOf(collection) {
    if (collection.rows) return collection.rows;
    const names = Object.keys(collection.columns);
    const many = collection.columns.neuron.length;
    collection.rows = Array.from({ length: many }, (_, i) => {
      const row = Object.fromEntries(names.map((name) => [name, collection.columns[name][i]]));
      row.marks = Object.fromEntries(Object.entries(collection.centres).map(([mark, values]) => [mark, Array.isArray(values) ? values[i] : values]));
      return row;
    });
    collection.headed = new Set(collection.columns.head).size > 1;
    if (!collection.headed) for (const row of collection.rows) row.head = null;
    return collection.rows;
  }

  // Search. --------------------------------------------------------------------------------------

  const WORDS = { l: "layer", layer: "layer", h: "head", head: "head", n: "neuron", neuron: "neuron", index: "neuron" };

  /** What a search asks for: numbers by field, and the words that were not understood. */
  function asked(text) {
    const wanted = {};
    const rest = text.toLowerCase().replace(/(?:\b(layer|head|neuron|index|[lhn])\s*)?(\d+)(?:\s*[-–]\s*(\d+))?(?![a-z]{2})/g, (_, word, from, to) => {
      wanted[WORDS[word ?? "neuron"]] = [Number(from), Number(to ?? from)];
      return " ";
    });
    return { wanted, unknown: rest.replace(/[\s,·.]+/g, " ").trim() };
  }

  const fits = (wanted) => (row) => Object.entries(wanted).every(([field, [low, high]]) => row[field] !== null && row[field] >= low && row[field] <= high);

  // The drawing. ---------------------------------------------------------------------------------

  /** A histogram's bars, from `exponent first joined heights`. */
  function bars(row) {
    if (!row.bins) return [];
    const [exponent, first, joined, text] = row.bins.split(" ");
    const width = Number(joined) * 2 ** Number(exponent);
    const start = Number(first) * 2 ** Number(exponent);
    const made = Array.from(atob(text), (sign, i) => {
      const [x, x2, tall] = [start + i * width, start + (i + 1) * width, sign.charCodeAt(0) / 255];
      const told = `${short(x)} to ${short(x2)}\n${tall === 1 ? "the tallest bin" : `${share(tall)} of the tallest bin`}`;
      return { part: "bin", x, x2, height: tall, told };
    });
    return [...made, { part: "bin", x: start + made.length * width, height: 0 }];
  }

  /** What is marked on a neuron: name, value, ends of its interval, kind. */
  function marked(row) {
    const list = found.marks.map((mark) => {
      const own = mark === found.peak;
      const value = row.marks[mark] ?? (own ? row.peak : null);
      return { part: "centre", mark, value, low: own ? row.peak_low : null, high: own ? row.peak_high : null };
    });
    list.push(...found.scales.map(([field, mark]) => ({ part: "scale", mark, value: row[field], low: null, high: null })));
    return list.filter((one) => one.value !== null && one.value !== undefined);
  }

  const interval = (one) => (one.low === null || one.high === null ? "" : `[${place(one.low)}, ${place(one.high)}]`);
  const off = (one, row) => (row.std ? `${signed(((one.value - row.mean) / row.std).toFixed(2))} s.d. from the mean` : "");

  function drawing(row) {
    const rows = bars(row);
    for (const one of marked(row)) {
      const told = [`${one.mark}: ${place(one.value)}`, off(one, row), interval(one) && `95 % interval ${interval(one)}`].filter(Boolean).join("\n");
      rows.push({ part: one.part, mark: one.mark, x: one.value, told });
      if (interval(one)) rows.push({ part: "interval", mark: one.mark, x: one.low, x2: one.high, told });
    }
    return rows;
  }

  function sentence(row) {
    const parts = [`Mean ${place(row.mean)}, s.d. ${short(row.std)}, peak ${place(row.peak)}`];
    const ends = interval({ low: row.peak_low, high: row.peak_high });
    parts[0] += ends ? ` with a 95 % interval over documents of ${ends}.` : "; its interval was not computed.";
    if (row.stable !== null) {
      parts.push(row.stable ? "The peak is stable: the fixed scales find it in one place, but for noise." : "The peak is not stable: where it is depends on how closely one looks.");
    }
    if (row.modes > 1) parts.push(`${row.modes} modes; the second holds ${share(row.second)} of the values.`);
    if (row.zero_share) parts.push(`${share(row.zero_share)} of the values are exactly 0 and not in the bins.`);
    if (row.outside) parts.push(`${share(row.outside)} lie outside the counted window.`);
    if (!row.bins) parts.push("There is no histogram: no value lies in a bin.");
    return parts.join(" ");
  }

  // What stands on the page. ---------------------------------------------------------------------

  const groups = [...new Set(found.collections.map((one) => one.group))];
  const state = { collection: found.collections[0], sort: "apart", down: true, page: 0, row: null, kept: [] };
  let handle = null;

  const group = element("select", { id: "neurons-group" }, ...groups.map((name) => element("option", { value: name }, name)));
  const part = element("select", { id: "neurons-part" });
  const partLabel = element("label", { class: "pick", for: "neurons-part" }, "Of ", part);
  const search = element("input", {
    type: "search", id: "neurons-search", placeholder: "layer 3, l3 h2 n17, head 1, 17",
    autocomplete: "off", spellcheck: "false", "aria-describedby": "neurons-hint",
  });
  const hint = element("small", { id: "neurons-hint" }, "layer, head, neuron or l, h, n and a number or a range (n10-19); a bare number is a neuron");
  const chart = element("section", { class: "chart", "aria-label": "The neuron chosen" });
  const status = element("p", { class: "status", role: "status" });
  const box = element("div", { class: "table", role: "region", tabindex: "0", "aria-label": "Table: neurons" });
  const back = element("button", { type: "button" }, "Previous");
  const next = element("button", { type: "button" }, "Next");
  const where = element("span");

  function kept() {
    const { wanted, unknown } = asked(search.value);
    const rows = rowsOf(state.collection).filter(fits(wanted));
    const way = state.down ? -1 : 1;
    const order = (a, b) => {
      const [p, q] = [a[state.sort], b[state.sort]];
      if (p === null || q === null) return (p === null) - (q === null);
      return way * (p - q) || (state.sort === "modes" ? way * (a.second - b.second) : 0);
    };
    const natural = (a, b) => a.layer - b.layer || a.neuron - b.neuron;
    return { rows: [...rows].sort((a, b) => order(a, b) || natural(a, b)), unknown, wanted };
  }

  function show(row) {
    state.row = row;
    handle?.finalize();
    const title = `${state.collection.group} · ${called(row)}`;
    const marks = marked(row);
    const height = FOOT + 16 + 20 * marks.length;
    // It is drawn a moment later; its room is there at once, so that nothing jumps.
    const plot = element("div", { class: "plot", style: `min-height: ${height + 45}px` });
    const keep = element("button", { type: "button", class: "save", "aria-label": `Download ${title} as SVG` }, "SVG");
    const zoom = element("span", { role: "group", "aria-label": "Zoom" },
      element("button", { type: "button", "aria-label": "Zoom in", onclick: () => handle.scaled(0.6) }, "+"), " ",
      element("button", { type: "button", "aria-label": "Zoom out", onclick: () => handle.scaled(1 / 0.6) }, "−"), " ",
      element("button", { type: "button", "aria-label": "Zoom: reset", onclick: () => handle.reset() }, "Reset"), " ", keep);
    const file = `${title}.svg`.toLowerCase().replace(/[^a-z0-9.]+/g, "-").replace(/^-|-$/g, "");
    const lines = marks.map((one) => element("tr", {},
      element("th", { scope: "row" }, one.mark), element("td", {}, place(one.value)),
      element("td", {}, interval(one) || NONE), element("td", {}, off(one, row).replace(" from the mean", "") || NONE)));
    const heads = ["mark", "value", "95 % interval", "from the mean"].map((text) => element("th", { scope: "col" }, text));
    const open = chart.querySelector("details")?.open ?? false;
    chart.replaceChildren(
      element("div", { class: "head" }, element("strong", {}, title), zoom),
      element("p", { class: "note" }, sentence(row)), plot,
      element("details", { class: "numbers", open }, element("summary", {}, "The marks as numbers"),
        element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines))));
    const names = Math.min(150, 6.6 * Math.max(...marks.map((one) => one.mark.length)));
    handle = draw(plot, found.chart, drawing(row), {
      width: Math.max(180, plot.clientWidth - names - 36),
      height,
      label: `Histogram of ${title}. ${sentence(row)}`,
    });
    const shown = handle;
    keep.addEventListener("click", () => save(shown, file, title));
    for (const line of box.querySelectorAll("tbody tr")) mark(line);
  }

  /** Let a line of the table say whether its neuron is the one drawn. */
  function mark(line) {
    const here = line.row === state.row;
    if (here) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
    line.querySelector("button").setAttribute("aria-pressed", String(here));
  }

  function heading([field, text, , down, about]) {
    const on = state.sort === field;
    const arrow = on ? (state.down ? " ▼" : " ▲") : "";
    const button = element("button", { type: "button", title: about || null, "data-field": field }, text, element("span", { "aria-hidden": "true" }, arrow));
    button.addEventListener("click", () => {
      state.down = on ? !state.down : down;
      state.sort = field;
      state.page = 0;
      list();
      box.querySelector(`[data-field="${field}"]`).focus();
    });
    return element("th", { scope: "col", "aria-sort": on ? (state.down ? "descending" : "ascending") : null }, button);
  }

  function line(row, columns) {
    const made = element("tr", {}, ...columns.map(([field, , says]) => {
      if (field !== "neuron") return element("td", {}, says(row));
      return element("th", { scope: "row" }, element("button", { type: "button", tabindex: "-1", "aria-label": `Draw ${called(row)}` }, says(row)));
    }));
    made.row = row;
    made.addEventListener("click", () => { reach(made); show(row); });
    mark(made);
    return made;
  }

  /** Of the table's lines the tabulator key stops at one; arrow keys go on from there. */
  function reach(made, focus = false) {
    for (const other of box.querySelectorAll("tbody button")) other.tabIndex = -1;
    const button = made?.querySelector("button");
    if (!button) return;
    button.tabIndex = 0;
    if (focus) button.focus();
  }

  function list() {
    const { rows, unknown, wanted } = kept();
    const columns = COLUMNS.filter(([field]) => field !== "head" || state.collection.headed);
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    state.pages = pages;
    const lines = rows.slice(state.page * PAGE, (state.page + 1) * PAGE).map((row) => line(row, columns));
    box.replaceChildren(element("table", {},
      element("caption", {}, `Neurons of ${state.collection.group}; a heading sorts, a neuron’s button draws it.`),
      element("thead", {}, element("tr", {}, ...columns.map(heading))), element("tbody", {}, ...lines)));
    box.scrollTop = 0;
    reach(lines.find((made) => made.row === state.row) ?? lines[0]);
    back.disabled = state.page === 0;
    next.disabled = state.page === pages - 1;
    where.textContent = rows.length ? `${state.page * PAGE + 1}–${state.page * PAGE + lines.length} of ${rows.length}` : "none";
    const here = rowsOf(state.collection).length;
    const some = here < state.collection.whole ? ` that are here, of ${state.collection.whole} collected,` : "";
    const texts = [Object.keys(wanted).length || unknown ? `${rows.length} of the ${here} neurons${some} match.` : `${here} neurons${some.replace(/,$/, "")}.`];
    if (unknown) texts.push(`“${unknown}” is not understood: write a layer, head or neuron, such as l3 h2 n17.`);
    if (!rows.length && some) texts.push("Others can be asked for by the command above.");
    status.textContent = texts.join(" ");
    return rows;
  }

  function parts() {
    const own = found.collections.filter((one) => one.group === group.value);
    part.replaceChildren(...own.map((one) => element("option", { value: one.part }, one.part)));
    partLabel.hidden = own.length < 2;
  }

  function choose() {
    state.collection = found.collections.find((one) => one.group === group.value && (part.value === "" || one.part === part.value));
    state.page = 0;
    const rows = list();
    const first = rows[0] ?? rowsOf(state.collection)[0];
    if (first) show(first);
  }

  function turn(pages) {
    state.page += pages;
    list();
  }

  box.addEventListener("keydown", (event) => {
    const lines = [...box.querySelectorAll("tbody tr")];
    const at = lines.indexOf(event.target.closest("tbody tr"));
    if (at < 0) return;
    const goes = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: lines.length - 1 }[event.key];
    const page = { PageDown: 1, PageUp: -1 }[event.key];
    if (goes === undefined && page === undefined) return;
    event.preventDefault();
    const over = page ?? (goes >= lines.length ? 1 : goes < 0 ? -1 : 0);
    if (!over) return reach(lines[goes], true);
    if (state.page + over < 0 || state.page + over >= state.pages) return;
    turn(over);
    const fresh = [...box.querySelectorAll("tbody tr")];
    reach(page === undefined && over < 0 ? fresh.at(-1) : fresh[0], true);
  });
  group.addEventListener("change", () => { parts(); choose(); });
  part.addEventListener("change", choose);
  search.addEventListener("input", () => { state.page = 0; list(); });
  search.addEventListener("keydown", (event) => {
    const first = box.querySelector("tbody tr");
    if (!first || (event.key !== "Enter" && event.key !== "ArrowDown")) return;
    event.preventDefault();
    if (event.key === "Enter") show(first.row);
    reach(first, event.key === "ArrowDown");
  });
  back.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));

  holder.replaceChildren(
    element("div", { class: "tools" },
      element("label", { class: "pick", for: "neurons-group" }, "Neurons of ", group), partLabel,
      element("div", { class: "search" }, element("label", { for: "neurons-search" }, "Search ", search), hint)),
    chart, status, box,
    element("div", { class: "pages", role: "group", "aria-label": "Pages of the table" }, back, where, next));
  parts();
  choose();

  // A drawing has the width of the page, so another width needs another one.
  resized(() => state.row && show(state.row));
});
