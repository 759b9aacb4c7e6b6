// Numbers, types and sizes as people read them: the same words as in report/words.py.

function figure(number) {
  if (number === null || number === undefined) return "-";
  if (Number.isNaN(number)) return "NaN";
  if (!Number.isFinite(number)) return number > 0 ? "inf" : "-inf";
  if (number === 0) return "0";
  const magnitude = Math.abs(number);
  if (magnitude >= 1e-2 && magnitude < 1e6) {
    return magnitude < 1000 ? String(Number(number.toPrecision(3))) : number.toFixed(0);
  }
  const [mantissa, exponent] = number.toExponential(1).split("e");
  return `${mantissa}e${Number(exponent)}`;
}

function percent(share) {
  if (share === null || Number.isNaN(share)) return "-";
  if (share > 0 && share < 0.001) return "<0.1%";
  if (share > 0.999 && share < 1) return ">99.9%";
  return `${(share * 100).toFixed(1).replace(/\.0$/, "")}%`;
}

function scaled(count, units) {
  if (!Number.isFinite(count)) return figure(count);
  let unit = 0;
  while (Math.abs(count) >= 999.5 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? count.toFixed(0) : Number(count.toPrecision(3))} ${units[unit]}`;
}

function bytes(count) {
  return count === null ? "-" : scaled(count, ["bytes", "kB", "MB", "GB", "TB"]);
}

function operations(count) {
  return count === null ? "-" : scaled(count, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"]);
}

function microseconds(seconds) {
  return seconds === null ? "-" : `${Number((seconds * 1e6).toPrecision(4))} us`;
}

function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

function shortOp(op) {
  if (op === "ampconvert::phi") return "branch or loop value";
  return op.replace(/^(aten|onnx)::/, "");
}
