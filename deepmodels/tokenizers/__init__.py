"""Tokenizers: text to numbers and back. Bytes, characters and words are built in; files need the extra `text`."""

from deepmodels.tokenizers.builtin import Bytes as Bytes
from deepmodels.tokenizers.builtin import Characters as Characters
from deepmodels.tokenizers.builtin import Words as Words
from deepmodels.tokenizers.chat import Chat as Chat
from deepmodels.tokenizers.chat import load_chat as load_chat
from deepmodels.tokenizers.files import load as load
from deepmodels.tokenizers.files import train_bpe as train_bpe
from deepmodels.tokenizers.tokenizer import Encoded as Encoded
from deepmodels.tokenizers.tokenizer import Tokenizer as Tokenizer
from deepmodels.tokenizers.tokenizer import check_vocab as check_vocab
from deepmodels.tokenizers.tokenizer import encode_batch as encode_batch
from deepmodels.tokenizers.tokenizer import encode_prompts as encode_prompts
from deepmodels.tokenizers.tokenizer import pad as pad
