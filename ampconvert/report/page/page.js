// Puts the page together: tree, plots, casts, copying, theme, printing.

const THEMES = ["auto", "light", "dark"];
const THEME_WORDS = {auto: "Theme: automatic", light: "Theme: light", dark: "Theme: dark"};
const PRINTED = 400; // rows of modules on paper

const treeBox = document.querySelector('[data-part="tree"]');
treeBox?.replaceChildren();
const tree = treeBox ? makeTree(treeBox, showDetails) : null;
if (tree) emptyDetails();

if (typeof Plot !== "undefined") {
  plotDepth();
  plotRanges();
  plotFront();
  plotHistograms();
}
listCasts();
listenForClicks();
switchThemes();
printWell();
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey || !tree) return;
  event.preventDefault();
  tree.focusSearch();
});
document.documentElement.dataset.ready = "true";

function listCasts() {
  const box = document.querySelector('[data-part="casts"]');
  if (!box) return;
  const operator = (name) => (byName.has(name) ? jump(nodes[byName.get(name)]) : name ?? "an input");
  const readers = (cast) => {
    const shown = cast.readers.slice(0, 4).flatMap((name, place) => [place ? ", " : "", operator(name)]);
    return cast.readers.length > 4 ? [...shown, ` and ${cast.readers.length - 4} more`] : shown;
  };
  const moved = casts.reduce((sum, cast) => sum + (cast.bytes ?? 0), 0);
  const seconds = casts.reduce((sum, cast) => sum + (cast.seconds ?? 0), 0);
  box.replaceChildren(
    pagedTable("Casts of activations", [
      {name: "Tensor", cell: (cast) => cast.label || cast.value},
      {name: "From", cell: (cast) => badge(cast.from)},
      {name: "To", cell: (cast) => [badge(cast.to), cast.clamp ? " limited first" : ""]},
      {name: "Made by", cell: (cast) => operator(cast.maker)},
      {name: "Module", cell: (cast) => cast.scope || "-"},
      {name: "Read by", cell: readers},
      {name: "Moved", right: true, cell: (cast) => bytes(cast.bytes)},
      {name: "Predicted time", right: true, cell: (cast) => microseconds(cast.seconds)},
    ], casts),
    element("p", null, `In all ${counted(casts.length, "cast")}, ${bytes(moved)} moved, `
      + `${microseconds(seconds)} predicted.`));
}

// Names of operators lead to the tree, commands are copied.
function listenForClicks() {
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("[data-node]");
    if (link && byName.has(link.dataset.node)) tree?.reveal(nodes[byName.get(link.dataset.node)]);
    const copy = event.target.closest(".copy");
    if (copy) copied(copy);
  });
}

function copied(button) {
  const code = button.parentNode.querySelector("code");
  const range = document.createRange();
  range.selectNodeContents(code);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  // A page that was opened from a file may lack the clipboard: then the text stays selected.
  navigator.clipboard?.writeText(code.textContent).then(() => told("Copied"), () => told("Selected"));
  if (!navigator.clipboard) told("Selected");
  function told(word) {
    button.textContent = word;
    announce(word);
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
}

function switchThemes() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const use = (theme) => {
    root.dataset.theme = theme;
    button.textContent = THEME_WORDS[theme];
  };
  const known = remembered();
  use(THEMES.includes(known) ? known : "auto");
  button.hidden = false;
  button.addEventListener("click", () => {
    use(THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length]);
    try {
      localStorage.setItem("ampconvert-theme", root.dataset.theme);
    } catch { /* a browser may keep nothing for files */ }
  });
}

function remembered() {
  try {
    return localStorage.getItem("ampconvert-theme");
  } catch {
    return null;
  }
}

// On paper nothing scrolls or opens: modules as a plain table, and every plot drawn.
function printWell() {
  let sheet = null;
  addEventListener("beforeprint", () => {
    for (const render of charts) render();
    if (!tree || sheet) return;
    const modules = modulesOf(tree.root).slice(0, PRINTED);
    sheet = element("div", {class: "on-paper"}, paperTable(modules));
    treeBox.after(sheet);
  });
  addEventListener("afterprint", () => {
    sheet?.remove();
    sheet = null;
  });
}

function paperTable(modules) {
  const low = report.types[report.low] ?? report.low;
  const columns = ["Module", "Operators", `In ${low}`, "FLOPs", "Memory", "Predicted error", "Measured"];
  return element("table", null,
    element("caption", null, "Modules"),
    element("thead", null, element("tr", null, columns.map((name) => element("th", {scope: "col"}, name)))),
    element("tbody", null, modules.map((module) => element("tr", null,
      element("th", {scope: "row"}, module.path),
      [module.operators, module.low, percent(module.share), bytes(module.memory),
       figure(outputError(module)), figure(module.rel_l2)].map((cell) =>
        element("td", {class: "right"}, String(cell)))))));
}
