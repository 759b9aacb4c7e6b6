// A long list of rows of equal height, of which only those in sight are in the page.

const SPARE = 12; // rows above and below what is in sight

// `scroller` scrolls, `body` holds the rows, `make(place)` gives the element of one row.
function windowed(scroller, body, height, make) {
  let count = 0;
  let kept = -1;
  let made = new Map();
  const draw = () => {
    const first = Math.max(0, Math.floor(scroller.scrollTop / height) - SPARE);
    const last = Math.min(count, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height)
                                 + SPARE);
    const wanted = new Map();
    const add = (place) => {
      const row = made.get(place) ?? make(place);
      row.style.transform = `translateY(${place * height}px)`;
      wanted.set(place, row);
    };
    // What the keyboard is at stays in the page, also out of sight.
    if (kept >= 0 && kept < first) add(kept);
    for (let place = first; place < last; place += 1) add(place);
    if (kept >= last && kept < count) add(kept);
    for (const [place, row] of made) if (!wanted.has(place)) row.remove();
    let after = null;
    for (const row of [...wanted.values()].reverse()) {
      if (row.nextSibling !== after || row.parentNode !== body) body.insertBefore(row, after);
      after = row;
    }
    made = wanted;
  };
  let waiting = false;
  scroller.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }, {passive: true});
  return {
    draw,
    // New rows altogether, or the same ones looking different.
    reset(size) {
      count = size;
      for (const row of made.values()) row.remove();
      made = new Map();
      body.style.height = `${count * height}px`;
      draw();
    },
    // The row that the keyboard is at; it is drawn anew, and so is the one it was at before.
    keep(place, top) {
      for (const changed of [kept, place]) {
        made.get(changed)?.remove();
        made.delete(changed);
      }
      kept = place;
      const [start, end] = [place * height, (place + 1) * height];
      const room = scroller.clientHeight - top;
      if (start < scroller.scrollTop) scroller.scrollTop = start;
      else if (end > scroller.scrollTop + room) scroller.scrollTop = end - room;
      draw();
    },
    // How many rows fit.
    get room() { return Math.max(1, Math.floor(scroller.clientHeight / height) - 2); },
  };
}
