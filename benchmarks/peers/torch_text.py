"""The peer: the models of text as transformers and torch have them, trained by torch in eager mode."""

import math

import torch_steps
from torch_steps import oracles, torch, turns

cross_entropy = torch.nn.functional.cross_entropy


class Transformer(torch.nn.Module):
    """`torch.nn.Transformer` between one matrix that embeds and gives the logits, with dropout where the paper has it.

    torch's own sizes are the base model's.
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab_size, 512)
        self.transformer = torch.nn.Transformer(batch_first=True)
        self.dropout = torch.nn.Dropout(0.1)
        for layer in self.transformer.modules():
            if isinstance(layer, torch.nn.MultiheadAttention):
                layer.dropout = 0.0
            if isinstance(layer, (torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer)):
                layer.dropout.p = 0.0  # between the dense layers
        angles = torch.arange(512)[:, None] / 10_000 ** (torch.arange(0, 512, 2) / 512)
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).reshape(512, 512))

    def forward(self, tokens, targets):
        source, target = (
            self.dropout(self.embed(x) * math.sqrt(512) + self.positions[: x.shape[1]]) for x in (tokens, targets)
        )
        causal = torch.nn.Transformer.generate_square_subsequent_mask(targets.shape[1])
        return self.transformer(source, target, tgt_mask=causal, tgt_is_causal=True) @ self.embed.weight.T


class LanguageModel(torch.nn.Module):
    """An embedding, `torch.nn.LSTM` and a dense layer."""

    def __init__(self, vocab_size: int, hidden_size: int):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab_size, hidden_size)
        self.lstm = torch.nn.LSTM(hidden_size, hidden_size, num_layers=2, batch_first=True)
        self.head = torch.nn.Linear(hidden_size, vocab_size)

    def forward(self, tokens):
        return self.head(self.lstm(self.embed(tokens))[0])


def bert_base(arguments: dict, batch: int, lengths: list[int]):
    transformers = oracles.import_transformers()
    model = transformers.BertForMaskedLM(transformers.BertConfig())
    tokens = torch.randint(0, 30_522, (batch, *lengths))
    labels = tokens.where(torch.rand(tokens.shape) < 0.15, -100)
    return model, lambda: model(input_ids=tokens, labels=labels).loss, lambda: model(input_ids=tokens)


def t5_small(arguments: dict, batch: int, lengths: list[int]):
    transformers = oracles.import_transformers()
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(decoder_start_token_id=0))
    source, target = (torch.randint(0, 32_128, (batch, length)) for length in lengths)

    def forward():
        return model(input_ids=source, decoder_input_ids=target, use_cache=False)

    return model, lambda: model(input_ids=source, labels=target).loss, forward


def transformer_base(arguments: dict, batch: int, lengths: list[int]):
    model = Transformer(37_000)
    source, target = torch.randint(0, 37_000, (batch, lengths[0])), torch.randint(0, 37_000, (batch, lengths[1] + 1))

    def loss():
        logits = model(source, target[:, :-1])
        return cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), label_smoothing=0.1)

    return model, loss, lambda: model(source, target[:, :-1])


def lstm_ptb_medium(arguments: dict, batch: int, lengths: list[int]):
    model = LanguageModel(10_000, arguments["hidden_size"])
    tokens = torch.randint(0, 10_000, (batch, *lengths))

    def loss():
        return cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    return model, loss, lambda: model(tokens)


def gpt2(arguments: dict, batch: int, lengths: list[int]):
    transformers = oracles.import_transformers()
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), arguments["dropout_rate"])
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**still))
    tokens = torch.randint(0, 50_257, (batch, *lengths))

    def forward(**labels):
        return model(input_ids=tokens, use_cache=False, **labels)

    return model, lambda: forward(labels=tokens).loss, forward


MODELS = {f.__name__: f for f in (bert_base, t5_small, transformer_base, lstm_ptb_medium, gpt2)}


def start(side: dict):
    """Returns (step, facts) for a subject's fields, "task", "batch", "device" and "by"."""
    facts = torch_steps.begin(side)
    model, loss, forward = MODELS[side["model"]](side["arguments"], side["batch"], side["lengths"])
    if side["by"] == "transformers":
        facts["version"] += f" transformers {oracles.import_transformers().__version__}"
    if side["task"] == "infer":
        model.eval()
        return torch_steps.inference(side, forward), facts
    model.train()
    return torch_steps.training(side, model.parameters(), loss), facts


if __name__ == "__main__":
    turns.serve(start)
