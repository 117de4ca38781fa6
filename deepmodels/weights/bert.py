"""Where transformers keeps the weights of BERT, RoBERTa and DistilBERT, fairseq RoBERTa's. Ours stack the layers."""

from deepmodels.errors import unknown
from deepmodels.weights.convert import Rule, Rules, dense, layer_norm

_LAYER = "layers[{layer}]"


def _embed(source: str, target: str) -> Rules:
    return (Rule(f"{source}.weight", f"params/{target}/embedding"),)


def _norm(source: str, target: str) -> Rules:
    """A normalisation; files as old as BERT's first ones have names of tensorflow."""
    old = (Rule(f"{source}.gamma", f"params/{target}/scale"), Rule(f"{source}.beta", f"params/{target}/bias"))
    return (*layer_norm(source, target), *old)


def _bert(prefix: str) -> Rules:
    theirs, embeddings = f"{prefix}encoder.layer.{{layer}}", f"{prefix}embeddings"
    return (
        *_embed(f"{embeddings}.word_embeddings", "token_embed"),
        *_embed(f"{embeddings}.position_embeddings", "position_embed"),
        *_embed(f"{embeddings}.token_type_embeddings", "segment_embed"),
        *_norm(f"{embeddings}.LayerNorm", "norm"),
        Rule(f"{embeddings}.position_ids", None),
        Rule(f"{embeddings}.token_type_ids", None),
        *dense(f"{theirs}.attention.self.query", f"{_LAYER}/attention/query"),
        *dense(f"{theirs}.attention.self.key", f"{_LAYER}/attention/key"),
        *dense(f"{theirs}.attention.self.value", f"{_LAYER}/attention/value"),
        *dense(f"{theirs}.attention.output.dense", f"{_LAYER}/attention/out"),
        *_norm(f"{theirs}.attention.output.LayerNorm", f"{_LAYER}/norm1"),
        *dense(f"{theirs}.intermediate.dense", f"{_LAYER}/dense1"),
        *dense(f"{theirs}.output.dense", f"{_LAYER}/dense2"),
        *_norm(f"{theirs}.output.LayerNorm", f"{_LAYER}/norm2"),
        *dense(f"{prefix}pooler.dense", "pooler"),
        Rule(f"{prefix}pooler.dense.{{*}}", None),  # where the model has none
    )


def _distilbert(prefix: str) -> Rules:
    theirs, embeddings = f"{prefix}transformer.layer.{{layer}}", f"{prefix}embeddings"
    return (
        *_embed(f"{embeddings}.word_embeddings", "token_embed"),
        *_embed(f"{embeddings}.position_embeddings", "position_embed"),
        *layer_norm(f"{embeddings}.LayerNorm", "norm"),
        Rule(f"{embeddings}.position_ids", None),
        *dense(f"{theirs}.attention.q_lin", f"{_LAYER}/attention/query"),
        *dense(f"{theirs}.attention.k_lin", f"{_LAYER}/attention/key"),
        *dense(f"{theirs}.attention.v_lin", f"{_LAYER}/attention/value"),
        *dense(f"{theirs}.attention.out_lin", f"{_LAYER}/attention/out"),
        *layer_norm(f"{theirs}.sa_layer_norm", f"{_LAYER}/norm1"),
        *dense(f"{theirs}.ffn.lin1", f"{_LAYER}/dense1"),
        *dense(f"{theirs}.ffn.lin2", f"{_LAYER}/dense2"),
        *layer_norm(f"{theirs}.output_layer_norm", f"{_LAYER}/norm2"),
    )


def _masked_lm(layer: str, norm: str, bias: str, tied: str) -> Rules:
    return (
        *dense(layer, "masked_lm_dense"),
        *_norm(norm, "masked_lm_norm"),
        Rule(bias, "params/masked_lm_bias"),
        Rule(tied, None),  # the embedding again, and the bias
    )


_BODIES = {"bert": _bert, "roberta": _bert, "distilbert": _distilbert}
_CLASSIFIER, _ANSWER = dense("classifier", "head"), dense("qa_outputs", "head")
_WORDS = {
    "bert": _masked_lm(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "cls.predictions.decoder.{*}",
    ),
    "roberta": _masked_lm("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.{*}"),
    "distilbert": _masked_lm("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector.weight"),
}
_HEADS = {
    "bert": {"pretraining": (*_WORDS["bert"], *dense("cls.seq_relationship", "next_sentence"))},
    "roberta": {
        "sequence_classification": (*dense("classifier.dense", "pooler"), *dense("classifier.out_proj", "head")),
    },
    "distilbert": {"sequence_classification": (*dense("pre_classifier", "pooler"), *_CLASSIFIER)},
}


def transformers(model_type: str, head: str | None = None) -> Rules:
    """Returns the rows that convert a model of transformers: they read it with any head, and write it with this one.

    A model without head takes nothing from those of a file.

    Args:
      model_type: "bert", "roberta" or "distilbert", as in transformers' config.json.
      head: of `deepmodels.models.bert.Bert`.

    Raises:
      ConfigError: there is no such type, or it has no such head.
    """
    if model_type not in _BODIES:
        raise unknown("model_type", model_type, _BODIES)
    heads = {
        "masked_lm": _WORDS[model_type],
        "sequence_classification": _CLASSIFIER,
        "token_classification": _CLASSIFIER,
        "question_answering": _ANSWER,
    } | _HEADS[model_type]
    if head is not None and head not in heads:
        raise unknown(f"head of {model_type}", head, heads)
    body, name = _BODIES[model_type], f"{model_type}."
    bodies = (body(""), body(name)) if head is None else (body(name), body(""))  # the first that fits is written
    others = [rows for other, rows in heads.items() if other != head]
    first = heads[head] if head else ()
    unused = ("cls", "lm_head", "classifier", "pre_classifier", "qa_outputs", "vocab_transform", "vocab_layer_norm")
    return (
        *(row for rows in (first, *bodies, *others) for row in rows),
        *(Rule(f"{name}.{{*}}", None) for name in (*unused, "vocab_projector")),
    )


TRANSFORMERS = {
    "bert": transformers("bert"),
    "roberta_base": transformers("roberta"),
    "distilbert": transformers("distilbert"),
}

_FAIRSEQ, _FAIRSEQ_LAYER = "decoder.sentence_encoder", "decoder.sentence_encoder.layers.{layer}"

FAIRSEQ: Rules = (  # of its first versions, in which RoBERTa was published
    *_embed(f"{_FAIRSEQ}.embed_tokens", "token_embed"),
    *_embed(f"{_FAIRSEQ}.embed_positions", "position_embed"),
    *layer_norm(f"{_FAIRSEQ}.emb_layer_norm", "norm"),
    *dense(f"{_FAIRSEQ_LAYER}.self_attn.q_proj", f"{_LAYER}/attention/query"),
    *dense(f"{_FAIRSEQ_LAYER}.self_attn.k_proj", f"{_LAYER}/attention/key"),
    *dense(f"{_FAIRSEQ_LAYER}.self_attn.v_proj", f"{_LAYER}/attention/value"),
    *dense(f"{_FAIRSEQ_LAYER}.self_attn.out_proj", f"{_LAYER}/attention/out"),
    *layer_norm(f"{_FAIRSEQ_LAYER}.self_attn_layer_norm", f"{_LAYER}/norm1"),
    *dense(f"{_FAIRSEQ_LAYER}.fc1", f"{_LAYER}/dense1"),
    *dense(f"{_FAIRSEQ_LAYER}.fc2", f"{_LAYER}/dense2"),
    *layer_norm(f"{_FAIRSEQ_LAYER}.final_layer_norm", f"{_LAYER}/norm2"),
    *dense("decoder.lm_head.dense", "masked_lm_dense"),
    *layer_norm("decoder.lm_head.layer_norm", "masked_lm_norm"),
    Rule("decoder.lm_head.bias", "params/masked_lm_bias"),
    Rule("decoder.lm_head.weight", None),  # the embedding again
    Rule("decoder.lm_head.{*}", None),
)

HEADS: Rules = (
    Rule("params/masked_lm_bias", None),
    Rule("params/masked_lm_dense/{*}", None),
    Rule("params/masked_lm_norm/{*}", None),
    Rule("params/next_sentence/{*}", None),
    Rule("params/pooler/{*}", None),
    Rule("params/head/{*}", None),
)
