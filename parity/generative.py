"""Builds of torch's layers of the networks that make pictures, with the names under which their weights circulate.

They are what their authors' code has, written anew: PyTorch's example of DCGAN; pix2pix and CycleGAN; the package
DALL-E; and the VAE of Kingma & Welling, which has no circulating names. Each is a `ModuleDict` of its networks, which
called with a batch, images (B, H, W, C) or latents (B, D), gives all that they make of it end to end, flattened: the
ledger says of what. Fast style transfer is a network alone. Importing this file needs nothing.
"""

import oracles


def dcgan(latent: int, channels: int, critic_channels: int):
    """Returns the "generator" and the "discriminator" of DCGAN for pictures of 64 x 64, each in `main`."""
    nn = oracles.import_torch().nn
    layers, fed = [], latent
    for i, width in enumerate((8, 4, 2, 1)):
        layers += [nn.ConvTranspose2d(fed, channels * width, 4, 1 if i == 0 else 2, 0 if i == 0 else 1, bias=False)]
        layers += [nn.BatchNorm2d(channels * width), nn.ReLU()]
        fed = channels * width
    generator = _under("main", nn.Sequential(*layers, nn.ConvTranspose2d(fed, 3, 4, 2, 1, bias=False), nn.Tanh()))
    layers, fed = [], 3
    for i, width in enumerate((1, 2, 4, 8)):
        layers += [nn.Conv2d(fed, critic_channels * width, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(critic_channels * width)] if i else []
        layers += [nn.LeakyReLU(0.2)]
        fed = critic_channels * width
    discriminator = _under("main", nn.Sequential(*layers, nn.Conv2d(fed, 1, 4, 1, 0, bias=False)))

    def made(networks, latents):
        fake = networks["generator"](latents[:, :, None, None])
        return fake, networks["discriminator"](fake)

    return _networks({"generator": generator, "discriminator": discriminator}, made)


def pix2pix(channels: int, critic_channels: int):
    """Returns "G", the U-Net of eight halvings, and "D", which sees pictures beside what they were made of."""
    torch = oracles.import_torch()

    def made(networks, images):
        given = images.permute(0, 3, 1, 2)
        fake = networks["G"](given)
        return fake, networks["D"](torch.cat([given, fake], 1))

    return _networks({"G": _unet(channels), "D": _patches(6, critic_channels, torch.nn.BatchNorm2d)}, made)


def cyclegan(channels: int, critic_channels: int):
    """Returns the generators "G_A" and "G_B" of nine blocks, and their discriminators "D_A" and "D_B"."""
    nn = oracles.import_torch().nn
    networks = {"G_A": _resnet(channels), "G_B": _resnet(channels)}
    networks |= {name: _patches(3, critic_channels, nn.InstanceNorm2d) for name in ("D_A", "D_B")}

    def made(networks, images):
        given = images.permute(0, 3, 1, 2)
        fake = networks["G_A"](given)
        return fake, networks["G_B"](fake), networks["D_A"](fake), networks["D_B"](networks["G_B"](given))

    return _networks(networks, made)


def dalle_dvae(hidden_size: int, first_size: int, blocks: int, codebook_size: int):
    """Returns the "encoder" and the "decoder" as appendix A.2 of Ramesh et al. (2021) has them."""
    torch = oracles.import_torch()
    nn = torch.nn

    class Conv(nn.Module):
        def __init__(self, fed, given, size):
            super().__init__()
            self.w = nn.Parameter(torch.empty(given, fed, size, size))
            self.b = nn.Parameter(torch.zeros(given))

        def forward(self, x):
            return nn.functional.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)

    class Block(nn.Module):
        def __init__(self, fed, given, sizes):
            super().__init__()
            between = given // 4
            self.id_path = Conv(fed, given, 1) if fed != given else nn.Identity()
            self.res_path = nn.Sequential()
            for i, (one, other) in enumerate(
                ((fed, between), (between, between), (between, between), (between, given))
            ):
                self.res_path.add_module(f"relu_{i + 1}", nn.ReLU())
                self.res_path.add_module(f"conv_{i + 1}", Conv(one, other, sizes[i]))

        def forward(self, x):
            return self.id_path(x) + self.res_path(x) / (4 * blocks) ** 2

    def half(fed, given, first, widths, sizes, between, window):
        layers = nn.Sequential()
        layers.add_module("input", Conv(fed, first, window))
        for number, width in enumerate(widths, start=1):
            group = nn.Sequential()
            for i in range(1, blocks + 1):
                group.add_module(f"block_{i}", Block(first, width, sizes))
                first = width
            if number < 4:
                group.add_module("between", between())
            layers.add_module(f"group_{number}", group)
        layers.add_module("output", nn.Sequential())
        layers.output.add_module("relu", nn.ReLU())
        layers.output.add_module("conv", Conv(first, given, 1))
        return _under("blocks", layers)

    widths = [hidden_size * 2**i for i in range(4)]
    pool, grow = lambda: nn.MaxPool2d(2), lambda: nn.Upsample(scale_factor=2, mode="nearest")
    encoder = half(3, codebook_size, hidden_size, widths, (3, 3, 3, 1), pool, 7)
    decoder = half(codebook_size, 6, first_size, widths[::-1], (1, 3, 3, 3), grow, 1)

    def made(networks, images):
        logits = networks["encoder"](0.8 * images.permute(0, 3, 1, 2) + 0.1)
        return logits, networks["decoder"](logits.softmax(1))

    return _networks({"encoder": encoder, "decoder": decoder}, made)


def dalle(vocab, codes, length, grid, size, layers, heads, mlp_size, kernel_size):
    """Returns the decoder of Ramesh et al. (2021) of torch's layers, called with (tokens, codes, mask).

    What it gives is flattened: logits of the words behind the first, and of the codes.
    """
    torch = oracles.import_torch()
    nn = torch.nn

    def sees(kind, query, key):
        """Whether a code at (row, column) sees another, figure 11, code by code."""
        (row, column), (other, aside) = divmod(query, grid), divmod(key, grid)
        if key > query:
            return False
        if kind == "row":
            return query - key <= grid
        if kind == "column":
            return column == aside
        half = kernel_size // 2  # a kernel that goes on in the next row where a row ends
        return any(other * grid + aside == (row - up) * grid + column + to
                   for up in range(half + 1) for to in range(-half, half + 1))  # fmt: skip

    def hidden(kind):
        total = length + grid * grid
        mask = torch.triu(torch.ones(total, total, dtype=torch.bool), 1)
        for query in range(grid * grid):
            for key in range(grid * grid):
                mask[length + query, length + key] = not sees(kind, query, key)
        return mask

    kinds = ["column" if number % 4 == 2 else "row" for number in range(1, layers)] + ["convolution"]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            rows = dict(word=vocab, image=codes, padding=length, position=length, row=grid, column=grid)
            for name, count in rows.items():
                setattr(self, name, nn.Embedding(count, size))
            gelu = lambda x: nn.functional.gelu(x, approximate="tanh")  # noqa: E731
            options = dict(dropout=0.0, activation=gelu, batch_first=True, norm_first=True)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(size, heads, mlp_size, **options) for _ in range(layers)
            )
            self.norm = nn.LayerNorm(size)
            self.words, self.codes = (nn.Linear(size, count, bias=False) for count in (vocab, codes))

        def forward(self, tokens, given, mask):
            places, index = torch.arange(length), torch.arange(grid * grid)
            text = torch.where(mask[..., None], self.word(tokens), self.padding(places)) + self.position(places)
            image = self.image(given) + self.row(index // grid) + self.column(index % grid)
            x = torch.cat([text, image], 1)
            for layer, kind in zip(self.layers, kinds, strict=True):
                x = layer(x, src_mask=hidden(kind))
            x = self.norm(x)
            said = self.words(x[:, : length - 1]), self.codes(x[:, length - 1 : -1])
            return torch.cat([part.flatten() for part in said])

    return Model()


def vae(pixels: int, hidden_size: int, latent_size: int):
    """Returns the dense layers "down", "mean", "log_var", "up1" and "up0" of the VAE with one hidden layer."""
    nn = oracles.import_torch().nn
    layers = {
        "down": nn.Linear(pixels, hidden_size),
        "mean": nn.Linear(hidden_size, latent_size),
        "log_var": nn.Linear(hidden_size, latent_size),
        "up1": nn.Linear(latent_size, hidden_size),
        "up0": nn.Linear(hidden_size, pixels),
    }

    def made(networks, images):
        hidden = networks["down"](images.flatten(1)).tanh()
        mean = networks["mean"](hidden)
        return mean, networks["log_var"](hidden), networks["up0"](networks["up1"](mean).tanh())

    return _networks(layers, made)


def fast_style(channels: int = 32):
    """Returns the network of PyTorch's example of fast style transfer, under its names, enlivened."""
    torch = oracles.import_torch()
    nn, c = torch.nn, channels

    class Layer(nn.Module):
        def __init__(self, fed, channels, size, stride=1, enlarge=1):
            super().__init__()
            self.before = nn.Sequential(nn.Upsample(scale_factor=enlarge), nn.ReflectionPad2d(size // 2))
            self.conv2d = nn.Conv2d(fed, channels, size, stride)

        def forward(self, x):
            return self.conv2d(self.before(x))

    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv1, self.conv2 = (Layer(channels, channels, 3) for _ in range(2))
            self.in1, self.in2 = (nn.InstanceNorm2d(channels, affine=True) for _ in range(2))

        def forward(self, x):
            return x + self.in2(self.conv2(torch.relu(self.in1(self.conv1(x)))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.conv3 = Layer(3, c, 9), Layer(c, 2 * c, 3, 2), Layer(2 * c, 4 * c, 3, 2)
            for i, width in enumerate((c, 2 * c, 4 * c, 2 * c, c)):
                setattr(self, f"in{i + 1}", nn.InstanceNorm2d(width, affine=True))
            for i in range(5):
                setattr(self, f"res{i + 1}", Block(4 * c))
            self.deconv1, self.deconv2 = Layer(4 * c, 2 * c, 3, enlarge=2), Layer(2 * c, c, 3, enlarge=2)
            self.deconv3 = Layer(c, 3, 9)

        def forward(self, x):
            for i in range(3):
                x = torch.relu(getattr(self, f"in{i + 1}")(getattr(self, f"conv{i + 1}")(x)))
            for i in range(5):
                x = getattr(self, f"res{i + 1}")(x)
            for i in range(2):
                x = torch.relu(getattr(self, f"in{i + 4}")(getattr(self, f"deconv{i + 1}")(x)))
            return self.deconv3(x)

    torch.manual_seed(0)
    return oracles.enliven(Model())


def _networks(networks: dict, made):
    torch = oracles.import_torch()
    module = torch.nn.ModuleDict(networks)

    def forward(batch):
        outputs = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x for x in made(module, batch))
        return torch.cat([x.reshape(-1) for x in outputs])

    module.forward = forward
    return module


def _unet(channels: int, downs: int = 8):
    nn = oracles.import_torch().nn
    widths = [channels * min(2**i, 8) for i in range(downs)]

    class Block(nn.Module):
        def __init__(self, level):
            super().__init__()
            self.level, width = level, widths[level]
            outer = widths[level - 1] if level else 3
            down = nn.Conv2d(outer, width, 4, 2, 1, bias=False)
            last = level == downs - 1
            up = nn.ConvTranspose2d(width if last else 2 * width, outer, 4, 2, 1, bias=level == 0)
            inner = [] if last else [Block(level + 1)]
            if level == 0:
                layers = [down, *inner, nn.ReLU(), up, nn.Tanh()]
            elif last:
                layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.BatchNorm2d(outer)]
            else:
                norms = nn.BatchNorm2d(width), nn.BatchNorm2d(outer)
                layers = [nn.LeakyReLU(0.2), down, norms[0], *inner, nn.ReLU(), up, norms[1]]
            self.model = nn.Sequential(*layers)

        def forward(self, x):
            made = self.model(x)
            return made if self.level == 0 else oracles.import_torch().cat([x, made], 1)

    return _under("model", Block(0))


def _patches(fed: int, channels: int, norm):
    nn = oracles.import_torch().nn
    instance = norm is nn.InstanceNorm2d
    layers = [nn.Conv2d(fed, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
    for i, stride in ((1, 2), (2, 2), (3, 1)):
        width = channels * 2**i
        layers += [nn.Conv2d(width // 2, width, 4, stride, 1, bias=instance), norm(width), nn.LeakyReLU(0.2)]
    return _under("model", nn.Sequential(*layers, nn.Conv2d(8 * channels, 1, 4, 1, 1)))


def _resnet(channels: int):
    nn = oracles.import_torch().nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            half = lambda: (nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width))  # noqa: E731
            self.conv_block = nn.Sequential(*half(), nn.ReLU(), *half())

        def forward(self, x):
            return x + self.conv_block(x)

    c = channels
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7), nn.InstanceNorm2d(c), nn.ReLU()]
    for width in (2 * c, 4 * c):
        layers += [nn.Conv2d(width // 2, width, 3, 2, 1), nn.InstanceNorm2d(width), nn.ReLU()]
    layers += [Block(4 * c) for _ in range(9)]
    for width in (2 * c, c):
        layers += [nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), nn.InstanceNorm2d(width), nn.ReLU()]
    return _under("model", nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(c, 3, 7), nn.Tanh()))


def _under(name: str, inner):
    """A module that has another under this name, and does what it does."""
    module = oracles.import_torch().nn.Module()
    setattr(module, name, inner)
    module.forward = inner.forward
    return module
