"""ampconvert as a pass of Microsoft's Olive: ONNX in, FP16 or BF16 out, parity measured.

Olive finds the passes of others by a package configuration, which replaces its own list. So it is
written once, with Olive's passes and this one in it:

    python -m ampconvert.integrations.olive > olive_package.json
    olive run --config workflow.json --package-config olive_package.json

In the workflow: {"passes": {"fp16": {"type": "AmpConvert", "dtype": "fp16", "data": "calib/"}}}
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from ampconvert import pipeline_onnx
from ampconvert.commands.loading_onnx import placed
from ampconvert.conversion import Conversion
from ampconvert.errors import UserError
from ampconvert.frontends.onnx_load import load
from ampconvert.rules import command_line_rule
from ampconvert.verification_inputs import declared_inputs, onnx_feeds

PASS = "AmpConvert"


class AmpConvert(Pass):  # type: ignore[misc, unused-ignore]
    """Converts an ONNX model to FP16 or BF16 by ampconvert's rules, ranges and plan."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "dtype": PassConfigParam(
                type_=str, default_value="fp16", description="The target type: fp16 or bf16."
            ),
            "data": PassConfigParam(
                type_=str,
                default_value=None,
                description="A folder of .npz files with arrays by input name: what ranges and "
                "parity are taken from. Without it random inputs are used.",
            ),
            "tolerance": PassConfigParam(
                type_=float,
                default_value=None,
                description="The largest relative L2 error of an output; the fastest plan inside "
                "it is taken. Without it the rules' plan, inside 1e-2 (fp16) or 8e-2 (bf16).",
            ),
            "target": PassConfigParam(
                type_=str,
                default_value=None,
                description="What will run the model: trt, ort-cuda or ort-cpu.",
            ),
            "deny": PassConfigParam(
                type_=list[str],
                default_value=None,
                description="Operators (Softmax) and globs on node names that stay in FP32.",
            ),
            "repair": PassConfigParam(
                type_=bool,
                default_value=False,
                description="Rewrite what would otherwise stay in FP32.",
            ),
            "seed": PassConfigParam(
                type_=int, default_value=0, description="Of random inputs, where there is no data."
            ),
            "require_parity": PassConfigParam(
                type_=bool,
                default_value=True,
                description="Fail the pass where parity does not hold; else it is a warning.",
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        source = Path(model.model_path)
        out = Path(resolve_onnx_path(output_model_path, source.name))
        loaded = load(source)
        folder = Path(config.data) if config.data else None
        feeds, subject = onnx_feeds(
            source, declared_inputs(loaded), [], None, folder, config.seed, loaded
        )
        rules = [placed(command_line_rule(what, "deny"), loaded) for what in config.deny or ()]
        done = pipeline_onnx.convert(
            loaded,
            feeds,
            dtype=config.dtype,
            rules=rules,
            tolerance=config.tolerance,
            target=config.target,
            repair=config.repair,
            out=out,
            overwrite=True,
            about=subject,
        )
        _judge(done, required=config.require_parity)
        return _handler(done, out)


def package_config() -> dict[str, Any]:
    """Olive's package configuration with this pass in it."""
    path = Path(OlivePackageConfig.get_default_config_path())
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    known["passes"][PASS] = {
        "module_path": f"{__name__ if __name__ != '__main__' else _MODULE}.{PASS}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["fp16", "bf16"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
    }
    return known


_MODULE = "ampconvert.integrations.olive"


def _judge(done: Conversion, *, required: bool) -> None:
    if done.ok:
        return
    found = done.verification
    worst = max((p.rel_l2 for p in found.parities if not p.ok), default=None) if found else None
    said = "it was not measured" if worst is None else f"relative L2 error {worst:.2g}"
    message = f"{PASS}: parity did not hold: {said}"
    if required:
        raise UserError(f"{message}; give data, repair or tolerance, or require_parity=false")
    warnings.warn(message, stacklevel=2)


def _handler(done: Conversion, out: Path) -> ONNXModelHandler:
    """The model as Olive passes it on, with what was measured among its attributes."""
    found = done.verification
    attributes = {
        "ampconvert": {
            "dtype": done.plan.low,
            "parity": None if found is None else max(p.rel_l2 for p in found.parities),
        },
        "additional_files": [str(done.files["plan"])],  # Olive takes them along with the model
    }
    folder = "onnx data" in done.files
    return ONNXModelHandler(
        model_path=str(out.parent if folder else out),
        onnx_file_name=out.name if folder else None,
        model_attributes=attributes,
    )


if __name__ == "__main__":
    print(json.dumps(package_config(), indent=2))
