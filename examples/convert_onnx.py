"""ONNX in, ONNX out, with no PyTorch: trains a classifier, writes it as ONNX, and converts that.

    pip install scikit-learn
    python examples/convert_onnx.py out

writes digits.onnx and calibration.npz into the folder `out`, then digits.fp16.onnx and
digits.bf16.onnx with their plans, and scores all three on pictures that none of them has seen. The
same on the command line:

    ampconvert out/digits.onnx --inputs out/calibration.npz -o out --force

The data are scikit-learn's 1,797 handwritten digits, 8 x 8 pixels.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import ampconvert

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
digits (float[batch,64] pixels) => (float[batch,10] probabilities) {
  hidden = Gemm(pixels, weight_1, bias_1)
  active = Relu(hidden)
  logits = Gemm(active, weight_2, bias_2)
  probabilities = Softmax(logits)
}
"""


def main(out: Path) -> None:
    """Write, convert and score; one line for each type."""
    train_x, test_x, train_y, test_y = digits()
    out.mkdir(parents=True, exist_ok=True)
    path = out / "digits.onnx"
    classifier = train(train_x, train_y)
    onnx.save(to_onnx(classifier), path)
    print(f"fp32: accuracy {classifier.score(test_x, test_y):.2%}")
    # Ranges come from pictures that the model was trained on; the test pictures stay unseen.
    seen = {"pixels": train_x[:256]}
    np.savez(out / "calibration.npz", **seen)
    for dtype in ("fp16", "bf16"):
        result = ampconvert.convert(
            path, data=[seen], dtype=dtype, out=out / f"digits.{dtype}.onnx", overwrite=True
        )
        [[probabilities]] = result.run([{"pixels": test_x}])
        accuracy = accuracy_score(test_y, probabilities.argmax(axis=-1))
        parity = result.verification.parities[0]
        print(f"{dtype}: accuracy {accuracy:.2%}, relative L2 error {parity.rel_l2:.1e}")


def digits() -> list[np.ndarray]:
    """Pictures float32[N, 64] from 0 to 1 and labels int[N]: 80 % to train with, 20 % to test."""
    data = load_digits()
    x = (data.data / 16).astype(np.float32)
    return train_test_split(x, data.target, test_size=0.2, random_state=0, stratify=data.target)


def train(x: np.ndarray, y: np.ndarray) -> MLPClassifier:
    """One hidden layer of 64 units."""
    return MLPClassifier((64,), max_iter=60, early_stopping=True, random_state=0).fit(x, y)


def to_onnx(classifier: MLPClassifier) -> onnx.ModelProto:
    """The classifier as an ONNX model with the same answers as its predict_proba."""
    model = onnx.parser.parse_model(MODEL)
    for number, arrays in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True), 1):
        for name, array in zip(("weight", "bias"), arrays, strict=True):
            tensor = onnx.numpy_helper.from_array(array.astype(np.float32), f"{name}_{number}")
            model.graph.initializer.append(tensor)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
