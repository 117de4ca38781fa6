import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import oracles
import pytest
from comparison import pixels
from text_comparison import assert_close, check_gradients, check_written, converted, lively, saved, tensors, words

from deepmodels import tokenizers
from deepmodels.loading import load_folder, save_folder
from deepmodels.models.clip import CLIP, CLIPText
from deepmodels.weights import clip
from deepmodels.weights.convert import from_ours

pytestmark = pytest.mark.parity

TOWER = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)
WORDS = TOWER | dict(vocab_size=40, max_position_embeddings=12, projection_dim=8)
TEXT = dict(vocab_size=40, hidden_size=16, num_layers=3, num_heads=2, mlp_size=48, max_length=12, embedding_size=8)
BOTH = dict(
    embedding_size=8, image_size=32, patch_size=8, vision_size=24, vision_layers=2, vision_heads=2,
    vision_mlp_size=64, vocab_size=40, max_length=12, text_size=16, text_layers=3, text_heads=2, text_mlp_size=48,
)  # fmt: skip
VISION = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
)


def texts(length=7):
    tokens = words(39, length)
    tokens[:, 4] = 39  # all end here
    tokens[:, 5] = 39  # padding, of the end itself and of another token
    tokens[:, 6:] = 0
    return tokens


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize(
    ("activation", "eos_token_id", "end_id"),  # transformers' end of a text, and ours
    [("quick_gelu", 2, None), ("gelu", 39, 39)],
)
def test_text_tower(activation, eos_token_id, end_id, projected, tmp_path):
    import torch

    name = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    theirs = lively(name, **WORDS, hidden_act=activation, eos_token_id=eos_token_id)
    theirs.save_pretrained(tmp_path / "theirs")
    model, variables = load_folder(tmp_path / "theirs")
    sizes = TEXT | dict(activation=activation, end_id=end_id) | ({} if projected else dict(embedding_size=0))
    assert model == CLIPText(**sizes)
    ours = jax.jit(model.apply)(variables, texts())
    with torch.no_grad():
        expected = theirs(**tensors(dict(input_ids=texts())), output_hidden_states=True)
    assert_close("hidden", ours["hidden"], expected.last_hidden_state.numpy())
    assert_close("penultimate", ours["penultimate"], expected.hidden_states[-2].numpy())
    if projected:
        assert_close("embedding", ours["embedding"], expected.text_embeds.numpy())
    else:
        assert_close("pooled", ours["pooled"], expected.pooler_output.numpy())
        assert "embedding" not in ours
    save_folder(tmp_path / "ours", model, variables)
    again, said = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said.values()), said
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key].numpy(), tensor.numpy())
    with torch.no_grad():
        again = again(**tensors(dict(input_ids=texts())))
    torch.testing.assert_close(again[0], expected[0])


def test_both_towers(tmp_path):
    import torch

    theirs = lively("CLIPModel", text_config=WORDS | dict(eos_token_id=39), vision_config=VISION, projection_dim=8)
    theirs.save_pretrained(tmp_path / "theirs")
    model, variables = load_folder(tmp_path / "theirs")
    assert model == CLIP(**BOTH, end_id=39)
    images = pixels(2, 32)
    given = tensors(dict(input_ids=texts(), pixel_values=np.moveaxis(images, -1, 1).copy()))
    with torch.no_grad():
        expected = theirs(**given)
    ours = jax.jit(model.apply)(variables, images, texts())
    check_outputs(ours, expected.image_embeds, expected.text_embeds, theirs.logit_scale.exp())
    logits = ours["scale"] * ours["image_embedding"] @ ours["text_embedding"].T
    assert_close("logits", logits, expected.logits_per_image.numpy())
    save_folder(tmp_path / "ours", model, variables)
    again, said = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said.values()), said
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key].numpy(), tensor.numpy())
    check_written(variables, clip.TRANSFORMERS, theirs, tmp_path)

    larger = pixels(2, 48)
    with torch.no_grad():
        features = theirs.get_image_features(
            torch.from_numpy(np.moveaxis(larger, -1, 1).copy()), interpolate_pos_encoding=True
        ).pooler_output
    features = features / features.norm(dim=-1, keepdim=True)
    got = jax.jit(lambda v, x: model.apply(v, x, method="encode_images"))(variables, larger)
    assert_close("larger images", got, features.numpy())


def test_gradients_of_all_parameters(tmp_path):
    theirs = lively("CLIPModel", text_config=WORDS | dict(eos_token_id=39), vision_config=VISION, projection_dim=8)
    model, images = CLIP(**BOTH, end_id=39), pixels(3, 32).astype(np.float64)
    variables = converted(model, saved(theirs, tmp_path), clip.TRANSFORMERS, images.astype(np.float32), texts())
    given = tensors(dict(input_ids=texts(), pixel_values=np.moveaxis(images, -1, 1).copy()))

    def logits(v):
        outputs = model.apply(v, images, texts())
        return outputs["scale"] * outputs["image_embedding"] @ outputs["text_embedding"].T

    check_gradients(logits, variables, theirs, lambda m: m(**given).logits_per_image, clip.TRANSFORMERS)


def check_outputs(ours, image_embedding, text_embedding, scale):
    assert_close("images", ours["image_embedding"], image_embedding.detach().numpy())
    assert_close("texts", ours["text_embedding"], text_embedding.detach().numpy())
    assert_close("scale", ours["scale"], scale.detach().numpy())


@pytest.mark.parametrize(
    "arguments",
    [{}, dict(patch_size=None, vision_size=8, vision_layers=(2, 1, 1, 1), vision_heads=4)],
    ids=["ViT", "ResNet"],
)
def test_open_clip(arguments):
    import torch

    model = CLIP(**BOTH | dict(text_mlp_size=None, vision_mlp_size=None) | arguments)
    theirs = oracles.open_clip(model)
    images, tokens, state = pixels(2, 32), texts(12), oracles.state_dict(theirs)  # it takes no shorter ones
    variables = converted(model, state, clip.OPEN_CLIP, images, tokens)
    given = [torch.from_numpy(np.moveaxis(images, -1, 1).copy()), tensors(tokens)]
    with torch.no_grad():
        expected = theirs(*given)
    check_outputs(jax.jit(model.apply)(variables, images, tokens), *expected[:3])
    written = from_ours(variables, clip.OPEN_CLIP)
    assert written.keys() == {name for name in state if not name.endswith("num_batches_tracked")}
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])


PROMPTS = [
    *("Hello, world!", "a photo of a cat's 12345 hats", "na\u00efve Gr\u00f6\u00dfe \u00bd \ufb01 e\u0301"),
    *("\u4e2d\u6587 and \U0001f600\u200b it'll don't", "tabs\tand\n\nlines ", "", "<|endoftext|> x"),
    "cats and dogs " * 40,
]


def merges_and_entries(path):
    """The merges of the file that CLIP's authors have, and the entries of the vocabulary that follows."""
    from tokenizers.pre_tokenizers import ByteLevel

    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1:48_895]
    merges = [tuple(line.split()) for line in lines]
    letters = sorted(ByteLevel.alphabet(), key=lambda letter: (ord(letter) > 255, letter))
    ends = ["<|startoftext|>", "<|endoftext|>"]
    return merges, [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), *ends]


@pytest.mark.parametrize("size", [None, 200])
def test_tokenizes_as_transformers_does(size, tmp_path):
    """The real merges as open_clip has them, and the first of them."""
    found = find_spec("open_clip")
    if found is None:
        pytest.skip("open_clip, whose file this reads, isn't installed")
    path = Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges, entries = merges_and_entries(path)
    if size is None:
        ours = tokenizers.load(path)
        assert ours.vocab_size == len(entries) == 49_408
    else:
        merges, entries = merges[:size], entries[: 512 + size] + entries[-2:]
        (tmp_path / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        ours = tokenizers.load(tmp_path)
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    theirs = oracles.import_transformers().CLIPTokenizer(vocab=vocabulary, merges=merges)
    for prompt in PROMPTS:
        ids = theirs(prompt).input_ids
        assert ours.frame(prompt)[0] == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    short = theirs(PROMPTS, padding="max_length", truncation=True, max_length=77).input_ids
    with pytest.warns(UserWarning, match="more than 77, which are cut"):
        np.testing.assert_array_equal(tokenizers.encode_prompts(ours, PROMPTS), short)
    theirs.save_pretrained(tmp_path / "folder")
    again = tokenizers.load(tmp_path / "folder")
    assert again.special == ours.special
    assert [again.frame(prompt)[0] for prompt in PROMPTS] == [ours.frame(prompt)[0] for prompt in PROMPTS]
