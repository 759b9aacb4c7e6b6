"""Keras scripts: what is decided, the text that comes out, and what is refused or left alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ampconvert.errors import UserError
from ampconvert.lint.rewrite.keras import is_keras, rewrite_keras
from ampconvert.lint.rewrite.keras_script import Low
from ampconvert.lint.source import Source

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("keras_*.py"))
DENSE = """\
import keras

model = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(2)])
model.compile("adam", "mse")
"""


def rewritten(text: str, dtype: Low = "float16") -> str:
    return rewrite_keras(text, "train.py", dtype=dtype).text


def without_top(text: str) -> str:
    """A rewritten script without the switch, the policy and their imports."""
    text = re.sub(r"^AMP_ENABLED = .*\n.*set_global_policy\(.*\n", "", text, flags=re.M)
    return re.sub(r"^import os\n", "", text, flags=re.M)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_every_script_is_rewritten_once(path: Path, dtype: Low) -> None:
    result = rewrite_keras(path.read_text(), path.name, dtype=dtype)
    ast.parse(result.text)
    assert result.steps and all(step.what and step.why for step in result.steps)
    assert [s.line for s in result.steps] == sorted(s.line for s in result.steps)
    assert f'set_global_policy("mixed_{dtype}" if AMP_ENABLED else "float32")' in result.text
    assert not [note for note in result.notes if "of the result: AMP5" in note]

    again = rewrite_keras(result.text, path.name, dtype=dtype)
    assert (again.text, again.steps) == (result.text, ())
    assert "already" in again.notes[0]


def test_the_textbook_script() -> None:
    (path,) = [p for p in SCRIPTS if p.stem == "keras_textbook"]
    was = path.read_text()
    expected = (
        was.replace("import numpy", "import os\nimport numpy", 1)
        .replace(
            "# FP16 for everything\n"
            "tf.keras.backend.get_session(config=tf.ConfigProto(floatx='float16'))\n",
            'AMP_ENABLED = os.environ.get("AMP_ENABLED", "1") != "0"'
            "  # AMP_ENABLED=0 runs all in float32\n"
            "tf.keras.mixed_precision.set_global_policy("
            '"mixed_float16" if AMP_ENABLED else "float32")\n',
        )
        .replace("layers.Dense(10, activation='softmax')", 'layers.Dense(10, dtype="float32")')
    )
    result = rewrite_keras(was, path.name, dtype="float16")
    assert result.text == expected != was
    told = " ".join(f"{step.what}: {step.why}" for step in result.steps)
    for word in (
        "get_session",
        "softmax removed",
        'dtype="float32"',
        "compile() adds loss scaling",
    ):
        assert word in told


@pytest.mark.parametrize(
    ("imports", "layer", "policy"),
    [
        ("import keras", "keras.layers.Dense", "keras."),
        ("import keras as k", "k.layers.Dense", "k."),
        ("from tensorflow import keras", "keras.layers.Dense", "keras."),
        ("import tensorflow as tf", "tf.keras.layers.Dense", "tf.keras."),
        ("import tensorflow.keras as tk", "tk.layers.Dense", "tk."),
        (
            "import tensorflow as tf\nfrom tensorflow.keras.layers import Dense",
            "Dense",
            "tf.keras.",
        ),
        ("from tensorflow.keras import layers, mixed_precision", "layers.Dense", ""),
        ("import tf_keras", "tf_keras.layers.Dense", "tf_keras."),
    ],
)
def test_the_policy_is_spelled_as_the_file_does(imports: str, layer: str, policy: str) -> None:
    models = {"": "layers", "tf.keras.": "tf.keras"}.get(policy, policy.removesuffix("."))
    made = f"{models}.Sequential" if models != "layers" else "Sequential"
    if models == "layers":
        imports += "\nfrom tensorflow.keras import Sequential"
    text = f"{imports}\n\nmodel = {made}([{layer}(2)])\nmodel.compile('adam', 'mse')\n"
    assert f"\n{policy}mixed_precision.set_global_policy(" in rewritten(text)


@pytest.mark.parametrize(
    ("imports", "added"),
    [
        ("from keras.layers import Dense\nfrom keras.models import Sequential", "import keras"),
        (
            "from tensorflow.keras.layers import Dense\nfrom tensorflow.keras import Sequential",
            "from tensorflow import keras",
        ),
    ],
)
def test_keras_is_imported_where_nothing_names_it(imports: str, added: str) -> None:
    text = f"{imports}\n\nmodel = Sequential([Dense(2)])\nmodel.compile('adam', 'mse')\n"
    last = imports.splitlines()[-1]
    assert f"{last}\n{added}\n\nAMP_ENABLED = " in rewritten(text)


def test_names_that_the_script_has_are_not_hidden() -> None:
    text = DENSE.replace("\n\n", "\n\nAMP_ENABLED = os = None\n", 1)
    made = rewritten(text)
    assert "MIXED_PRECISION_ENABLED = " in made and "AMP_ENABLED = os = None" in made


def test_line_ends_and_comments_stay() -> None:
    text = DENSE.replace("(2)])", "(\n    2,  # two\n)])").replace("\n", "\r\n")
    made = rewritten(text)
    assert '    2,  # two\r\n    dtype="float32",\r\n)])' in made
    assert made.count("\n") == made.count("\r\n")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # Which layer gives the output.
        ("m = Sequential()\nm.add(Dense(4))\nm.add(Dense(2, 'relu'))",
         "m.add(Dense(2, 'relu', @))"),
        ("m = Sequential([*[Dense(4)], Dense(2)])", "Sequential([*[Dense(4)], Dense(2, @)])"),
        ("m = Sequential([Dense(4)] + [Dense(2)])", "[Dense(4)] + [Dense(2, @)]"),
        ("ls = [Dense(4)]\nls.append(Dense(2))\nm = Sequential(ls)", "ls.append(Dense(2, @))"),
        ("ls = [Dense(4)]\nls.extend([Dense(2)])\nm = Sequential(ls)", "ls.extend([Dense(2, @)])"),
        ("m = Sequential([Dense(4), Dense(2), Reshape((2, 1))])",
         "Sequential([Dense(4), Dense(2, @), Reshape((2, 1), @)])"),
        ("m = Sequential([Dense(4), Sequential([Dense(2)])])", "Sequential([Dense(2, @)])"),
        ("m = Sequential([TimeDistributed(Dense(2))])", "TimeDistributed(Dense(2, @), @)"),
        ("m = Sequential([Dense(2, dtype='float32')])", "Dense(2, dtype='float32')"),
        ("m = Sequential([Dense(4), Dense(2, dtype='float16')])", "Dense(4), Dense(2, @)"),
        ("m = Sequential([Dense(4, dtype='float16'), Dense(2)])", "[Dense(4), Dense(2, @)]"),
        ("last = Dense(2)\ni = Input((3,))\nm = Model(i, last(Dense(4)(i)))", "last = Dense(2, @)"),
        ("i = Input((3,))\nm = Model(i, [Dense(1)(i), Dense(2)(i)])",
         "[Dense(1, @)(i), Dense(2, @)(i)]"),
        ("i = Input((3,))\nm = Model(i, {'a': Dense(1)(i)})", "{'a': Dense(1, @)(i)}"),
        ("i = Input((3,))\nm = Model(i, [Dense(1)(i) for _ in range(3)])",
         "[Dense(1, @)(i) for _ in range(3)]"),
        ("i = Input((3,))\nx = Dense(2)(i)\nm = Model(i, x + x)",
         "Model(i, keras.layers.Activation(\"linear\", @)(x + x))"),
        ("i = x = Input((3,))\nfor n in (4, 2):\n    x = Dense(n)(x)\nm = Model(i, x)",
         "Model(i, keras.layers.Activation(\"linear\", @)(x))"),
        ("i = Input((3,))\nm = Model(i, ops.softmax(Dense(2)(i)))", "ops.softmax(Dense(2, @)(i))"),
        ("i = Input((3,))\nm = Model(i, keras.layers.add([i, i]))", "add([i, i], @)"),
        ("i = Input((3,))\nb = applications.VGG16(include_top=False)\nm = Model(i, Dense(2)(b(i)))",
         "Dense(2, @)(b(i))"),
        ("m = keras.models.clone_model(Sequential([Dense(2)]))", "Sequential([Dense(2, @)])"),
        ("def head(x):\n    return Dense(2)(x)\n\n\ni = Input((3,))\nm = Model(i, head(i))",
         "return Dense(2, @)(x)"),
        ("class Net(Model):\n    def __init__(self):\n        super().__init__()\n"
         "        self.d = Dense(2)\n\n    def call(self, x):\n        return self.d(x)\n\n\n"
         "m = Net()", "self.d = Dense(2, @)"),
        ("class Net(Model):\n    def __init__(self):\n        super().__init__()\n"
         "        self.ds = [Dense(2)]\n\n    def call(self, x):\n        for d in self.ds:\n"
         "            x = d(x)\n        return x\n\n\nm = Net()",
         "return ops.cast(x, \"float32\")"),
        ("class Net(Model):\n    def __init__(self):\n        i = Input((3,))\n"
         "        super().__init__(i, Dense(2)(i))\n\n\nm = Net()", "Dense(2, @)(i))"),
        ("class Own(Layer):\n    def call(self, x):\n        return x\n\n\n"
         "m = Sequential([Dense(4), Own()])", "[Dense(4), Own(@)]"),
        ("class Own(Layer):\n    def __init__(self):\n        super().__init__()\n"
         "        self.d = Dense(2)\n\n    def call(self, x):\n        return self.d(x)\n\n\n"
         "m = Sequential([Dense(4), Own()])",
         "[Dense(4), Own(), keras.layers.Activation(\"linear\", @)]"),
        # What else stays float32.
        ("m = Sequential([Normalization(), Dense(2)])", "[Normalization(@), Dense(2, @)]"),
        ("m = Sequential([Embedding(9, 4), Dense(2)])", "[Embedding(9, 4, @), Dense(2, @)]"),
        ("m = Sequential([Input((3,)), Embedding(9, 4), Dense(2)])",
         "Embedding(9, 4), Dense(2, @)"),
    ],
)  # fmt: skip
def test_what_stays_float32(body: str, expected: str) -> None:
    text = (
        "import keras\nfrom keras import Input, Model, Sequential, applications, ops\n"
        "from keras.layers import Dense, Embedding, Layer, Normalization, Reshape\n"
        "from keras.layers import TimeDistributed\n\n"
        f"{body}\nm.compile('adam', 'mse')\n"
    )
    made = rewritten(text)
    assert expected.replace("@", 'dtype="float32"') in made
    assert made.count('dtype="float32"') == expected.count("@"), "nothing else became float32"


SOFTMAX = """\
import numpy as np
import tensorflow as tf

model = tf.keras.Sequential([
    tf.keras.layers.Dense(8, activation="relu"),
    tf.keras.layers.Dense(3, activation={activation!r}),
])
loss = tf.keras.losses.{loss}(from_logits=True)
model.compile("adam", loss{metrics})
{more}
"""


@pytest.mark.parametrize(
    ("more", "metrics", "kept"),
    [
        ("model.fit(x, y)", "", False),
        ("model.fit(x, y)", ", metrics=['accuracy']", False),
        ("model.fit(x, y)", ", metrics=[tf.keras.metrics.SparseCategoricalAccuracy()]", False),
        ("model.fit(x, y)", ", metrics=['accuracy', tf.keras.metrics.AUC()]", True),
        ("print(np.argmax(model.predict(x), axis=1))", "", False),
        ("p = model.predict(x)\nprint(p[0].argmax(), len(p))", "", False),
        ("p = model.predict(x)\nprint(p.max())", "", True),
        ("print(model(x))", "", True),
        ("model.save('model.keras')", "", True),
        ("model.save_weights('w.h5')", "", False),
        ("model.fit(x, y, callbacks=[tf.keras.callbacks.ModelCheckpoint('m.keras')])", "", True),
        ("explain(model.predict)", "", True),
        ("m2 = tf.keras.Sequential([model, tf.keras.layers.Softmax()])", "", False),
    ],
)
def test_a_softmax_that_is_taken_twice(more: str, metrics: str, kept: bool) -> None:
    given = {"activation": "softmax", "loss": "SparseCategoricalCrossentropy", "metrics": metrics}
    made = rewritten(SOFTMAX.format(more=more, **given))
    assert ("from_logits=False" in made) is kept
    assert ("Dense(3, activation='softmax', dtype=\"float32\")" in made) is kept
    assert ('tf.keras.layers.Dense(3, dtype="float32")' in made) is not kept


def test_a_sigmoid_with_a_threshold_stays() -> None:
    given = {"activation": "sigmoid", "loss": "BinaryCrossentropy", "more": "model.fit(x, y)"}
    assert "from_logits=False" in rewritten(SOFTMAX.format(metrics=", metrics=['acc']", **given))
    assert "from_logits=True" in rewritten(SOFTMAX.format(metrics="", **given))


def test_each_output_has_its_own_loss() -> None:
    made = rewritten(
        "import keras\nfrom keras.layers import Dense\nfrom keras.losses import *\n"
        "i = keras.Input((3,))\n"
        "a = Dense(3, activation='softmax', name='a')(i)\nb = Dense(3, name='b')(i)\n"
        "model = keras.Model(i, [a, b])\n"
        "model.compile('adam', {'a': keras.losses.CategoricalCrossentropy(from_logits=True),\n"
        "    'b': keras.losses.CategoricalCrossentropy(from_logits=True)})\n"
    )
    assert "a = Dense(3, dtype=\"float32\", name='a')(i)" in made
    assert "b = Dense(3, name='b', dtype=\"float32\")(i)" in made
    assert made.count("from_logits=True") == 2


def test_logits_that_are_taken_for_probabilities_are_told_of() -> None:
    text = DENSE.replace('"mse"', '"sparse_categorical_crossentropy"')
    result = rewrite_keras(text, "train.py", dtype="float16")
    assert any("line 4" in note and "expects probabilities" in note for note in result.notes)


OLD = "import tensorflow as tf\n\n{}\nmodel = tf.keras.Sequential([tf.keras.layers.Dense(2)])\n{}"


@pytest.mark.parametrize(
    "line",
    [
        "tf.keras.backend.set_floatx('float16')",
        "tf.keras.mixed_precision.set_global_policy('float32')",
        "tf.keras.mixed_precision.experimental.set_policy('mixed_float16')",
        "policy = tf.keras.mixed_precision.experimental.Policy('mixed_float16')\n"
        "tf.keras.mixed_precision.experimental.set_policy(policy)",
        "tf.config.optimizer.set_experimental_options({'auto_mixed_precision': True})",
        "config = tf.ConfigProto(floatx='float16')\nsession = tf.Session(config=config)\n"
        "tf.keras.backend.set_session(session)",
        "tf.compat.v1.keras.backend.get_session(config=None)",
    ],
)
def test_older_ways_are_taken_out(line: str) -> None:
    made = without_top(rewritten(OLD.format(line, "model.compile('adam', 'mse')\n")))
    expected = without_top(rewritten(OLD.format("", "model.compile('adam', 'mse')\n")))
    assert [x for x in made.splitlines() if x] == [x for x in expected.splitlines() if x]


def test_other_settings_of_a_session_stay() -> None:
    made = rewritten(
        OLD.format(
            "config = tf.compat.v1.ConfigProto(floatx='float16', log_device_placement=True)",
            "model.compile('adam', 'mse')\n",
        )
    )
    assert "config = tf.compat.v1.ConfigProto(log_device_placement=True)" in made


def test_the_graph_rewrite_leaves_its_optimizer() -> None:
    opt = "opt = tf.keras.optimizers.SGD()\n"
    name = "tf.train.experimental.enable_mixed_precision_graph_rewrite"
    for lines in (f"{opt}opt = {name}(opt)", f"opt = {name}(tf.keras.optimizers.SGD())"):
        made = rewritten(OLD.format(lines, "model.compile(opt, 'mse')\n"))
        assert name not in made and made.count(opt) == 1


def test_imports_that_nothing_reads_go() -> None:
    text = DENSE.replace(
        "\n\n", "\nfrom keras import backend as K, ops\n\nK.set_floatx('float16')\n", 1
    )
    made = rewritten(text.replace('"mse")', '"mse")\nprint(ops)'))
    assert "from keras import ops\n" in made and "K" not in made.replace("KERAS", "")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_masks_within_range(dtype: Low) -> None:
    text = (
        "import keras\nfrom keras import layers\n\n\nclass Masked(layers.Layer):\n"
        "    def call(self, x, mask):\n        y = x - 1e10 * mask\n"
        "        return y + (1.0 - mask) * -1e9 + 1e-12\n\n\n" + DENSE.split("\n\n", 1)[1]
    )
    result = rewrite_keras(text, "train.py", dtype=dtype)
    low = dtype == "float16"
    assert ("x - (3e4 if AMP_ENABLED else 1e10) * mask" in result.text) is low
    assert ("* (-3e4 if AMP_ENABLED else -1e9) + 1e-12" in result.text) is low
    assert any("1e-12 is 0 in float16" in note for note in result.notes) is low


def test_layers_that_ask_tensorflow_for_float32() -> None:
    text = (
        "import tensorflow as tf\n\n\nclass Scale(tf.keras.layers.Layer):\n"
        "    def __init__(self{}):\n        super().__init__({})\n\n"
        "    def call(self, x):\n        return x * tf.cast(tf.shape(x)[1], tf.float32) * 2.0\n\n\n"
        "model = tf.keras.Sequential([Scale(), tf.keras.layers.Dense(2)])\n"
        "model.compile('adam', 'mse')\n"
    )
    assert 'super().__init__(dtype="float32")' in rewritten(text.format("", ""))
    assert '[Scale(dtype="float32"),' in rewritten(text.format(", **kwargs", "**kwargs"))
    noise = text.replace("tf.cast(tf.shape(x)[1], tf.float32)", "tf.random.normal(tf.shape(x))")
    assert '[Scale(dtype="float32"),' in rewritten(noise.format(", **kwargs", "**kwargs"))
    typed = noise.replace("tf.shape(x))", "tf.shape(x), dtype=x.dtype)")
    assert "[Scale()," in rewritten(typed.format("", ""))
    with pytest.raises(UserError, match=r"train\.py:10: Scale\.call"):
        part = "\n        self.d = tf.keras.layers.Dense(2)\n\n    def call"
        rewritten(text.format("", "").replace("\n\n    def call", part))


def test_is_keras() -> None:
    assert is_keras(Source(DENSE)) and not is_keras(Source("import keras\nprint(keras)\n"))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("import keras\nkeras.config.set_dtype_policy('mixed_bfloat16')\n" + DENSE,
         "line 2: .*already"),
        ("import keras\nkeras.mixed_precision.set_global_policy(name)\n" + DENSE,
         "line 2: .*already"),
        ("import keras\nmodel = keras.models.load_model('x.keras')\nmodel.fit(1)\n",
         "line 2: .*keeps the policy"),
    ],
)  # fmt: skip
def test_nothing_to_do(text: str, note: str) -> None:
    result = rewrite_keras(text, "train.py", dtype="float16")
    assert (result.text, result.steps) == (text, ()) and re.search(note, result.notes[0])
