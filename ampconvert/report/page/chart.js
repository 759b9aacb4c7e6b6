// What all plots share: a frame with a legend, words for those who don't see it, and a table.

const HEIGHT = 300;
const charts = [];

// One plot in `box`. `draw(width)` gives a Plot figure, `words` say what it shows, `table` makes
// the same as a table, `legend` is [[kind, words], ...]. It is drawn when it comes into sight.
// Until then its room is kept free, so that nothing below it moves.
function addChart(box, {words, draw, table, legend = [], chosen = null, height = HEIGHT}) {
  const canvas = element("div", {class: "canvas"});
  canvas.style.minHeight = `${height}px`;
  box.append(element("figure", null,
    legend.length ? element("ul", {class: "legend"}, legend.map(([kind, told]) =>
      element("li", null, element("span", {class: `key ${kind}`, "aria-hidden": "true"}), told))) : null,
    canvas,
    element("figcaption", {class: "quiet"}, words),
    table ? asTable(table) : null));
  let width = 0;
  const render = (wanted = canvas.clientWidth) => {
    if (!wanted || wanted === width) return;
    width = wanted;
    const drawn = draw(Math.max(280, width));
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", words);
    // An image has one description: those of its marks would be read to nobody.
    for (const mark of drawn.querySelectorAll("g[aria-label]")) mark.removeAttribute("aria-label");
    if (chosen) drawn.addEventListener("click", () => drawn.value && chosen(drawn.value));
    canvas.replaceChildren(drawn);
    canvas.classList.toggle("clickable", Boolean(chosen));
  };
  charts.push(render);
  const sight = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    sight.disconnect();
    render();
    let waiting = 0;
    new ResizeObserver(() => {
      clearTimeout(waiting);
      waiting = setTimeout(render, 120);
    }).observe(canvas);
  }, {rootMargin: "300px"});
  sight.observe(canvas);
}

function emptied(name) {
  const box = document.querySelector(`[data-plot="${name}"]`);
  box?.replaceChildren();
  return box;
}

// Powers of ten, few enough to be read.
function decades(values) {
  const shown = values.filter((value) => value > 0 && Number.isFinite(value));
  if (!shown.length) return {domain: [1e-3, 1], ticks: [1e-3, 1e-2, 1e-1, 1]};
  const low = Math.floor(Math.log10(extent(shown)[0]) - 0.05);
  const high = Math.max(low + 1, Math.ceil(Math.log10(extent(shown)[1]) + 0.05));
  const step = Math.max(1, Math.ceil((high - low) / 8));
  const ticks = [];
  for (let power = low; power <= high; power += step) ticks.push(10 ** power);
  return {domain: [10 ** low, 10 ** high], ticks};
}

// Not Math.min(...values): that ends at some ten thousand arguments.
function extent(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return [least, most];
}

function powerOfTen(value) {
  const power = Math.round(Math.log10(value));
  return power >= -2 && power <= 3 ? String(Number((10 ** power).toPrecision(3))) : `1e${power}`;
}

function powerOfTwo(exponent) {
  return `2${[...String(exponent)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("")}`;
}

// Runs of neighbours for which `test` holds, as [first, one past the last].
function runs(items, test) {
  const found = [];
  items.forEach((item, place) => {
    if (!test(item)) return;
    if (found.length && found.at(-1)[1] === place) found.at(-1)[1] = place + 1;
    else found.push([place, place + 1]);
  });
  return found;
}

function isIsland(node) {
  return Boolean(node.runs_in) && node.runs_in !== report.low;
}

// Where operators stay in FP32: a band along the foot of a plot.
function islandBand([floor, top]) {
  const height = (top / floor) ** 0.025;
  return Plot.rectY(runs(nodes, isIsland), {
    x1: (run) => run[0] - 0.5, x2: (run) => run[1] - 0.5, y1: floor, y2: floor * height,
    fill: "var(--full)", stroke: "var(--full)", strokeWidth: 1,
  });
}

// The axes of a plot along the execution of the model, with as many operators as there are.
function alongExecution(width, height, y) {
  return {
    className: "plot", width, height, marginLeft: 56, marginRight: 14, marginTop: 22,
    marginBottom: 36,
    x: {domain: [-0.5, Math.max(0.5, nodes.length - 0.5)], label: "operators in the order of execution →",
        tickFormat: (tick) => (Number.isInteger(tick) ? tick.toLocaleString("en") : ""), ticks: Math.max(2, width / 110)},
    y,
  };
}

function operatorName(node) {
  return `${node.name} ${node.node}`;
}

function jump(node) {
  return element("button", {type: "button", class: "link", onclick: () => tree.reveal(node)}, node.node);
}
