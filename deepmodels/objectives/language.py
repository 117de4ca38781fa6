"""Objectives of text: of tokens, one by one. B batch, T positions, V words of the vocabulary.

What is averaged over tokens comes as a `Mean` with their number, so that parts of a batch, the batches of a split and
the padding of the last one all count for the tokens they have. "example_mask" (B,), where a batch has it, is 0 for
rows that are padding.

The model is called with a batch's "mask" (B, T), True where a position holds a token, "segments" (B, T), and of packed
batches "documents" (B, T) and "positions" (B, T), by these names and only where the batch has them.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from deepmodels.errors import ConfigError, unknown
from deepmodels.metrics import Mean, Perplexity
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean

IGNORED = -100  # the label of a position that counts for nothing, as in torch


def language_modelling(
    forward,
    batch: Batch,
    key: jax.Array | None,
    *,
    chunk_size: int | None = None,
    z_loss: float = 0.0,
    auxiliary_losses: Mapping[str, float] | None = None,
):
    """Cross-entropy of each token but the first with what the model expected from those before it.

    Of a row that holds several documents, each one's first token counts for nothing: the batch has the loss that they
    have as rows of their own, if the model keeps them apart too.

    Args:
      forward: `forward(tokens, key=key)` returns logits (B, T, V) of the token that follows each position, and the
        model's new variables.
      batch: "tokens" (B, T) integers; optionally "mask", "segments" and "example_mask"; "documents" (B, T) integers,
        one number for each document of a row, and 0 where there is no token; and "loss_mask" (B, T) of bools, True for
        the tokens to learn: of a conversation, those of the answers.
      key: randomness of the forward pass (dropout), or None.
      chunk_size: positions of a row whose logits exist at one time, in either pass; they are computed twice. The model
        is called with `project=False`, and has to return what has `hidden` (B, T, C) and `logits(hidden)`. None for all
        positions at once.
      z_loss: factor of the squared logarithm of the softmax's denominator, 1e-4 in Chowdhery et al. (2022),
        arXiv:2204.02311, section 5: it keeps logits near 0.
      auxiliary_losses: factors of what the model sows into the collection "losses" while it trains, by name, such as
        {"load_balancing": 0.01}; of several layers the mean counts.

    Returns:
      The loss in nats per token, and a pair of the metrics and the new variables: loss; accuracy and perplexity, the
      latter of the cross-entropy alone; and what the model sowed, by name.

    Raises:
      ConfigError: `chunk_size` isn't positive, or the model sows nothing of a name.
    """
    tokens, held = batch["tokens"], _held(batch, "mask", batch["tokens"])
    # the last position counts for nothing, which costs less than a copy of the other logits
    following = jnp.roll(held, -1, axis=1).at[:, -1].set(False)
    if "documents" in batch:
        documents = batch["documents"]
        held &= documents > 0
        following &= documents == jnp.roll(documents, -1, axis=1)
    if "loss_mask" in batch:
        following &= jnp.roll(batch["loss_mask"], -1, axis=1)
    named = _named(batch, "mask", "segments", "documents", "positions")
    targets, counts = jnp.roll(tokens, -1, axis=1), held & following
    if chunk_size is None:
        logits, variables = forward(tokens, key=key, **named)
        metrics = _token_metrics(logits, targets, counts, z_loss=z_loss)
    else:
        outputs, variables = forward(tokens, key=key, project=False, **named)
        metrics = _chunked_metrics(outputs, targets, counts, chunk_size, z_loss=z_loss)
    sown, variables = _sown(variables)
    for name, factor in (auxiliary_losses or {}).items():
        if name not in sown:
            if key is None:  # evaluation: nothing is sown then
                continue
            raise unknown("auxiliary loss", name, sown)
        whole = metrics["loss"]
        metrics["loss"] = Mean(whole.total + factor * sown[name].astype(whole.total.dtype) * whole.weight, whole.weight)
    return metrics["loss"].value, (metrics | sown, variables)


def masked_lm(
    forward,
    batch: Batch,
    key: jax.Array | None,
    *,
    mask_id: int,
    special_ids: Sequence[int],
    vocab_size: int,
    mask_rate: float = 0.15,
):
    """Cross-entropy of tokens that were hidden from the model, others in each step. Devlin et al. (2018),
    arXiv:1810.04805, section 3.1; drawn anew in each step as in Liu et al. (2019), arXiv:1907.11692.

    Of the tokens chosen 80 % become the mask, 10 % a random word, and 10 % stay as they are.

    Args:
      forward: `forward(tokens, key=key)` returns logits (B, T, V) and the model's new variables.
      batch: "tokens" (B, T) integers; optionally "mask", "segments" and "example_mask".
      key: of what is hidden, and of the forward pass. Without one, as in evaluation, always the same positions of a
        batch are hidden.
      mask_id: what hides a token. A config need not say, the data's tokenizer does.
      special_ids: tokens that are never chosen. Likewise.
      vocab_size: random words are below it. Likewise.
      mask_rate: the chance of each token to be chosen.

    Returns:
      The loss in nats per hidden token, and a pair of the metrics (loss, accuracy, perplexity), of hidden tokens, and
      the new variables.
    """
    hidden, chosen, key = _hide(batch, key, mask_id, special_ids, vocab_size, mask_rate)
    logits, variables = forward(hidden, key=key, **_named(batch, "mask", "segments"))
    metrics = _token_metrics(logits, batch["tokens"], chosen)
    return metrics["loss"].value, (metrics, variables)


def pretraining(
    forward,
    batch: Batch,
    key: jax.Array | None,
    *,
    mask_id: int,
    special_ids: Sequence[int],
    vocab_size: int,
    mask_rate: float = 0.15,
):
    """The two tasks of BERT: hidden tokens, and whether the second text of a pair follows the first.

    Devlin et al. (2018), arXiv:1810.04805, section 3.1.

    Args:
      forward: `forward(tokens, key=key)` returns {"masked_lm": logits (B, T, V), "next_sentence": logits (B, 2)}, of
        which class 0 is that the second text follows, and the model's new variables.
      batch: as for `masked_lm`, and "label" (B,): 0 where the second text follows, 1 where it is another.
      key: as for `masked_lm`.
      mask_id, special_ids, vocab_size, mask_rate: as for `masked_lm`.

    Returns:
      The sum of both losses in nats, and a pair of the metrics (loss, those of `masked_lm` with that in front, and
      next_sentence_loss and next_sentence_accuracy) and the new variables. The loss of several batches is the mean of
      theirs, whatever their numbers of hidden tokens.
    """
    hidden, chosen, key = _hide(batch, key, mask_id, special_ids, vocab_size, mask_rate)
    outputs, variables = forward(hidden, key=key, **_named(batch, "mask", "segments"))
    words = _token_metrics(outputs["masked_lm"], batch["tokens"], chosen)
    follows = outputs["next_sentence"].astype(_at_least_float32(outputs["next_sentence"].dtype))
    sentence_loss = _mean(optax.softmax_cross_entropy_with_integer_labels(follows, batch["label"]), batch)
    right = follows.argmax(-1).astype(batch["label"].dtype) == batch["label"]
    loss = words["loss"].value + sentence_loss
    metrics = {"loss": loss} | {f"masked_lm_{name}": metric for name, metric in words.items()}
    metrics |= {"next_sentence_loss": sentence_loss, "next_sentence_accuracy": _mean(right.astype(loss.dtype), batch)}
    return loss, (metrics, variables)


def span_corruption(
    forward,
    batch: Batch,
    key: jax.Array | None,
    *,
    sentinels: Sequence[int],
    start_id: int,
    end_id: int,
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
):
    """Cross-entropy of spans that were taken out of the tokens and replaced by a sentinel each.

    Raffel et al. (2019), arXiv:1910.10683, section 3.1.4. The decoder has to write each sentinel, what it stands for,
    and the end. The number of tokens and of spans taken out depends on T alone, and so do all shapes: which they are is
    drawn on the device.

    Args:
      forward: `forward(tokens, targets, key=key)` returns logits of the target that follows each position, and the
        model's new variables; targets begin with `start_id`.
      batch: "tokens" (B, T) integers without padding: windows of running text; optionally "example_mask".
      key: of the spans, and of the forward pass. Without one, as in evaluation, always the same spans are taken out.
      sentinels: what replaces the first span, the second, and so on. A config need not say, the data's tokenizer does.
      start_id: what the decoder starts from. Likewise.
      end_id: what ends both sequences. Likewise.
      noise_density: share of the tokens that is taken out.
      mean_span_length: of the spans, in tokens.

    Returns:
      The loss in nats per target, and a pair of the metrics (loss, accuracy, perplexity) and the new variables.

    Raises:
      ConfigError: there are more spans than sentinels.
    """
    key, dropout = _keys(key)
    inputs, targets = corrupt_spans(
        key, batch["tokens"], sentinels, end_id, noise_density=noise_density, mean_span_length=mean_span_length
    )
    start = jnp.full_like(targets[:, :1], start_id)
    logits, variables = forward(inputs, jnp.concatenate([start, targets[:, :-1]], axis=1), key=dropout)
    metrics = _token_metrics(logits, targets, _held(batch, None, targets))
    return metrics["loss"].value, (metrics, variables)


def sequence_to_sequence(forward, batch: Batch, key: jax.Array | None, *, label_smoothing: float = 0.0):
    """Cross-entropy of each target but the first, which the decoder starts from. Padding counts for nothing.

    Args:
      forward: `forward(tokens, targets, key=key)` returns logits (B, T - 1, V) of the target that follows each but the
        last, and the model's new variables; it gets "mask" and "target_mask" by name where the batch has them.
      batch: "tokens" (B, S) and "targets" (B, T) integers; optionally "mask" (B, S), "target_mask" (B, T), True where a
        position holds something, and "example_mask".
      key: randomness of the forward pass (dropout), or None.
      label_smoothing: share of the probability that goes to all words alike, 0.1 in Vaswani et al. (2017),
        arXiv:1706.03762, section 5.4, after Szegedy et al. (2015), arXiv:1512.00567.

    Returns:
      The loss in nats per target, and a pair of the metrics and the new variables: loss; accuracy and perplexity per
      target, without smoothing; and sequence_accuracy, the share of examples of which all targets are right, each given
      the true ones before it.
    """
    targets = batch["targets"]
    named = _named(batch, "mask")
    if "target_mask" in batch:
        named["target_mask"] = batch["target_mask"][:, :-1]
    logits, variables = forward(batch["tokens"], targets[:, :-1], key=key, **named)
    weights = _held(batch, "target_mask", targets)[:, 1:]
    metrics = _token_metrics(logits, targets[:, 1:], weights, label_smoothing)
    right = (_right(logits, targets[:, 1:]) | ~weights).all(1)
    dtype = metrics["loss"].total.dtype
    return metrics["loss"].value, (metrics | {"sequence_accuracy": _mean(right.astype(dtype), batch)}, variables)


def token_classification(forward, batch: Batch, key: jax.Array | None, *, ignore_label: int = IGNORED):
    """Cross-entropy of a class for each token: names, parts of speech.

    Args:
      forward: `forward(tokens, key=key)` returns logits (B, T, K) and the model's new variables.
      batch: "tokens" (B, T) integers; "label" (B, T) integers, in [0, K) or `ignore_label`; optionally "mask",
        "segments" and "example_mask".
      key: randomness of the forward pass (dropout), or None.
      ignore_label: the label of tokens that count for nothing: special ones, all but the first of a word.

    Returns:
      The loss in nats per token, and a pair of the metrics (loss, accuracy) and the new variables.
    """
    label = batch["label"]
    logits, variables = forward(batch["tokens"], key=key, **_named(batch, "mask", "segments"))
    weights = _held(batch, "mask", label) & (label != ignore_label)
    metrics = _token_metrics(logits, jnp.where(weights, label, 0), weights)
    del metrics["perplexity"]
    return metrics["loss"].value, (metrics, variables)


def span_extraction(forward, batch: Batch, key: jax.Array | None):
    """Cross-entropy of where an answer begins and of where it ends in a text, the mean of both.

    Devlin et al. (2018), arXiv:1810.04805, section 4.2.

    Args:
      forward: `forward(tokens, key=key)` returns logits (B, T, 2) of the first and of the last token of the answer, and
        the model's new variables.
      batch: "tokens" (B, T) integers; "start" and "end" (B,) integers in [0, T), of tokens; optionally "mask",
        "segments" and "example_mask".
      key: randomness of the forward pass (dropout), or None.

    Returns:
      The loss in nats, and a pair of the metrics and the new variables: loss; accuracy, the share of examples of which
      both ends are right.
    """
    logits, variables = forward(batch["tokens"], key=key, **_named(batch, "mask", "segments"))
    logits = logits.astype(_at_least_float32(logits.dtype))
    if "mask" in batch:
        logits = jnp.where(batch["mask"][..., None], logits, jnp.finfo(logits.dtype).min)
    truth = jnp.stack([batch["start"], batch["end"]], axis=1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.swapaxes(1, 2), truth)
    loss = _mean(losses.mean(1), batch)
    right = (logits.argmax(1).astype(truth.dtype) == truth).all(1)
    return loss, ({"loss": loss, "accuracy": _mean(right.astype(loss.dtype), batch)}, variables)


def hide_tokens(
    key: jax.Array, tokens: jax.Array, candidates: jax.Array, *, mask_id: int, vocab_size: int, mask_rate: float = 0.15
) -> tuple[jax.Array, jax.Array]:
    """Returns tokens with some of them hidden as `masked_lm` does it, and which were chosen, bools (B, T).

    Args:
      key: of the choice.
      tokens: (B, T) integers.
      candidates: (B, T) of bools: what may be chosen.
      mask_id, vocab_size, mask_rate: see `masked_lm`.
    """
    choice, kind, word = jax.random.split(key, 3)
    chosen = candidates & jax.random.bernoulli(choice, mask_rate, tokens.shape)
    kind = jax.random.uniform(kind, tokens.shape)
    words = jax.random.randint(word, tokens.shape, 0, vocab_size, tokens.dtype)
    changed = jnp.where(kind < 0.8, jnp.full_like(tokens, mask_id), jnp.where(kind < 0.9, words, tokens))
    return jnp.where(chosen, changed, tokens), chosen


def corrupt_spans(
    key: jax.Array,
    tokens: jax.Array,
    sentinels: Sequence[int],
    end_id: int,
    *,
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
) -> tuple[jax.Array, jax.Array]:
    """Returns tokens with spans replaced by sentinels, and the sentinels with their spans; both end with `end_id`.

    Args:
      key: of the spans.
      tokens: (B, T) integers.
      sentinels: what replaces the first span, the second, and so on.
      end_id: see above.
      noise_density: share of T that is taken out, rounded to tokens.
      mean_span_length: in tokens; with it the number of spans is rounded.

    Returns:
      Integers (B, T - noise + spans + 1) and (B, noise + spans + 1).

    Raises:
      ConfigError: there are more spans than sentinels.
    """
    batch, length = tokens.shape
    noise = min(max(round(length * noise_density), 1), length - 1)
    spans = min(max(round(noise / mean_span_length), 1), length - noise)
    if spans > len(sentinels):
        raise ConfigError(
            f"sentinels: {length} tokens lose {spans} spans, and the tokenizer has {len(sentinels)} sentinels: take "
            "shorter windows (data.max_length), fewer or longer spans, or another tokenizer"
        )

    def lengths(key: jax.Array, total: int) -> jax.Array:
        """Random lengths of `spans` parts, none empty, of `total` tokens: (B, spans)."""
        order = jax.random.uniform(key, (batch, total - 1)).argsort(axis=1)
        first = jnp.pad(order < spans - 1, ((0, 0), (1, 0)))  # whether a token is the first of a part
        part = jnp.cumsum(first, axis=1)
        return (part[..., None] == jnp.arange(spans)[None, None]).sum(1)

    kept_key, noise_key = jax.random.split(key)
    parts = jnp.stack([lengths(kept_key, length - noise), lengths(noise_key, noise)], axis=2).reshape(batch, -1)
    starts = jnp.cumsum(parts, axis=1) - parts  # kept, taken out, kept, taken out, ...
    position = jnp.arange(length)[None, :, None]
    part = (position >= starts[:, None]).sum(2) - 1
    first = (position == starts[:, None]).any(2)
    taken = part % 2 == 1
    marks = jnp.asarray(sentinels, tokens.dtype)[part // 2]
    end = jnp.full_like(tokens[:, :1], end_id)

    def packed(dropped: jax.Array, size: int) -> jax.Array:
        """The tokens of `dropped` parts as one sentinel each, the others as they are."""
        values = jnp.where(dropped & first, marks, tokens)
        order = jnp.argsort(dropped & ~first, axis=1, stable=True)[:, :size]
        return jnp.concatenate([jnp.take_along_axis(values, order, axis=1), end], axis=1)

    return packed(taken, length - noise + spans), packed(~taken, noise + spans)


def _named(batch: Batch, *names: str) -> Batch:
    return {name: batch[name] for name in names if name in batch}


def _held(batch: Batch, name: str | None, like: jax.Array) -> jax.Array:
    """Where a position counts: where the mask of that name is True, in examples that aren't padding. (B, T) bools."""
    held = batch.get(name, jnp.ones(like.shape, bool))
    return held & (batch["example_mask"][:, None] > 0) if "example_mask" in batch else held


def _keys(key: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """The key of what an objective draws, which is always the same in evaluation, and that of the forward pass."""
    return (jax.random.key(0), None) if key is None else tuple(jax.random.split(key))


def _hide(
    batch: Batch, key: jax.Array | None, mask_id: int, special_ids: Sequence[int], vocab_size: int, mask_rate: float
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Tokens with some hidden, which of them count, and the key that is left for the forward pass."""
    key, rest = _keys(key)
    tokens = batch["tokens"]
    special = (tokens[..., None] == jnp.asarray(special_ids, tokens.dtype)[None, None]).any(-1)
    candidates = _held(batch, "mask", tokens) & ~special
    hidden, chosen = hide_tokens(key, tokens, candidates, mask_id=mask_id, vocab_size=vocab_size, mask_rate=mask_rate)
    return hidden, chosen, rest


def _sown(variables: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], Mapping[str, jax.Array]]:
    """What a model sowed into "losses", by name and averaged over what has that name, and the other collections."""
    found: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.get("losses", {})):
        name = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)][-1]
        found.setdefault(name, []).append(leaf.reshape(-1))
    rest = {name: leaves for name, leaves in variables.items() if name != "losses"}
    return {name: jnp.concatenate(parts).mean() for name, parts in found.items()}, rest


def _chunked_metrics(
    outputs, targets: jax.Array, counts: jax.Array, chunk_size: int, **options: float
) -> dict[str, Mean]:
    """As `_token_metrics`, of hidden states: logits are there for `chunk_size` positions at a time, in either pass."""
    if chunk_size < 1:
        raise ConfigError(f"chunk_size: expected at least 1, got {chunk_size}")
    rows, length = targets.shape
    size = min(chunk_size, length)
    chunks = -(-length // size)

    def split(x: jax.Array) -> jax.Array:
        """(B, T, ...) as (chunks, B, size, ...)."""
        x = jnp.pad(x, [(0, 0), (0, chunks * size - length), *[(0, 0)] * (x.ndim - 2)])
        return x.reshape(rows, chunks, size, *x.shape[2:]).swapaxes(0, 1)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def metrics(hidden: jax.Array, targets: jax.Array, counts: jax.Array) -> dict[str, Mean]:
        return _token_metrics(outputs.logits(hidden), targets, counts, **options)

    parts = tuple(map(split, (outputs.hidden, targets, counts)))
    _, sums = jax.lax.scan(lambda _, chunk: (None, metrics(*chunk)), None, parts)
    return jax.tree.map(lambda x: x.sum(0), sums)


def _token_metrics(
    logits: jax.Array, targets: jax.Array, counts: jax.Array, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> dict[str, Mean]:
    """Loss, accuracy and perplexity over the positions that count, all (B, T)."""
    logits = logits.astype(_at_least_float32(logits.dtype))
    largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    shifted = logits - largest
    log_sum = jnp.log(jnp.exp(shifted).sum(-1))
    is_target = jnp.arange(logits.shape[-1], dtype=targets.dtype)[None, None] == targets[..., None]
    # a sum, as the gradient of indexing would be an array of zeros to scatter into
    surprise = log_sum - jnp.where(is_target, shifted, 0).sum(-1)
    losses = surprise
    if label_smoothing:
        losses = (1 - label_smoothing) * surprise + label_smoothing * (log_sum - shifted.mean(-1))
    if z_loss:
        losses += z_loss * jnp.square(log_sum + largest[..., 0])
    weights = counts.astype(logits.dtype)
    right = _right(logits, targets).astype(logits.dtype)
    whole = Mean.of(surprise, weights)
    return {
        "loss": Mean.of(losses, weights),
        "accuracy": Mean.of(right, weights),
        "perplexity": Perplexity(whole.total, whole.weight),
    }


def _right(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Whether the target is the word that `argmax` finds, as bools (B, T): a sum is several times as fast on a CPU."""
    logits = jax.lax.stop_gradient(logits)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    earlier = jnp.arange(logits.shape[-1], dtype=targets.dtype)[None, None] < targets[..., None]
    better = ~(logits <= chosen) | ((logits == chosen) & earlier)
    return better.astype(jnp.float32).sum(-1) == 0
