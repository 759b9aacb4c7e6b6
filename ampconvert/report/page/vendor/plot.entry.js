// What the report's page uses of Observable Plot; VENDOR.md has the command that bundles it.
export {
  areaY, axisX, axisY, dot, gridY, lineY, plot, pointer, pointerX, rectY, ruleX, ruleY, text, tip,
} from "@observablehq/plot";
