"""Memory of one device in a training stage, by arithmetic, before anything is loaded.

Legend: P parameters, t of them trained, on s shards; T tokens whose activations are held at once;
of a layer, h its width, f the inner width of its MLP, q and k the widths of its queries and keys; c
bytes of a value in the forward pass; r bytes of a value between layers.

Not counted: the CUDA context, fragments between allocations, buffers inside kernels and the
gradients of activations on their way back. `cards_that_hold` leaves room for them.
"""

from dataclasses import astuple, dataclass

from tdro_lightning.distributed.collectives import BUCKET
from tdro_lightning.files import GIGA

CARDS = (24, 40, 80, 141)  # GB of common GPUs
USABLE = 0.9  # share of a card that the counted memory may take
HALF, SINGLE = 2, 4  # bytes of a bfloat16 and of a float32


@dataclass(frozen=True)
class Model:
    """What the memory of a model depends on.

    Args:
        layers: transformer layers, all alike.
        hidden: width between layers.
        inner: width inside the MLP.
        queries: heads times head width.
        keys: key heads times head width.
        heads: attention heads.
        layer_values: parameters of one layer, adapter included.
        frozen: parameters without gradient; with any, the rest is a LoRA adapter.
        trained: parameters with gradient.
        frozen_bytes: bytes of a frozen parameter.
        trained_bytes: bytes of a trained parameter, of its gradient and of each AdamW moment.
    """

    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    heads: int
    layer_values: int
    frozen: int
    trained: int
    frozen_bytes: int
    trained_bytes: int

    @property
    def size(self) -> int:
        """Bytes of all parameters."""
        return self.frozen * self.frozen_bytes + self.trained_size

    @property
    def trained_size(self) -> int:
        """Bytes of the parameters with gradient."""
        return self.trained * self.trained_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of a value of the base model."""
        return self.frozen_bytes if self.frozen else self.trained_bytes

    def compute_bytes(self, mixed: bool) -> int:
        """Bytes of a value in the forward pass, and of a gathered parameter."""
        return HALF if mixed else self.stored_bytes

    @property
    def outside(self) -> int:
        """Parameters outside the layers, nearly all of them token embeddings."""
        return self.frozen + self.trained - self.layers * self.layer_values


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the worst moment of a step."""

    parameters: int
    gradients: int
    optimiser: int
    reference: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(astuple(self))


def estimate(
    model: Model,
    *,
    tokens: int,
    vectors: int,
    mixed: bool,
    checkpointing: bool,
    devices: int = 1,
    parameter_shards: int = 1,
    reference: bool = False,
    shared: bool = False,
    domains: int = 0,
) -> Memory:
    """Estimated memory of one device while a model trains; each part is a function below.

    Args:
        model: the model that trains.
        tokens: padded tokens on this device whose activations are held at once.
        vectors: embeddings of the batch on this device.
        mixed: whether the forward pass computes in bfloat16 whatever the parameters are.
        checkpointing: whether only the input of each layer is kept.
        devices: devices that share the batch.
        parameter_shards: devices that share the model: all of them under FSDP, else 1.
        reference: whether a frozen copy of the model is held beside it, as tDRO does.
        shared: whether that copy is another adapter on the same base.
        domains: domains whose gradients are held apart, as tDRO in one pass does.
    """
    shards = parameter_shards
    kept = activation_bytes(
        model, tokens, mixed=mixed, checkpointing=checkpointing, sharded=shards > 1
    )
    return Memory(
        parameters=parameter_bytes(model, shards, mixed=mixed),
        gradients=gradient_bytes(model, shards, devices, domains),
        optimiser=2 * model.trained_size // shards,  # AdamW's two moments
        reference=reference_bytes(model, shards, mixed=mixed, shared=shared) if reference else 0,
        # Embeddings and their gradients are float32 whatever the model is.
        activations=kept + 2 * vectors * model.hidden * SINGLE,
    )


def parameter_bytes(model: Model, shards: int, *, mixed: bool) -> int:
    """P / s, and copies for the forward pass.

    Unsharded float32 parameters that train in mixed precision have a bfloat16 copy beside them
    until the step ends. Sharded ones are gathered: two layers (the one that runs and the next) and
    what lies outside the layers.
    """
    if shards > 1:
        gathered = 2 * model.layer_values + model.outside
        return model.size // shards + gathered * model.compute_bytes(mixed)
    copied = mixed and not model.frozen and model.trained_bytes > HALF
    return model.size + (model.layers * model.layer_values * HALF if copied else 0)


def gradient_bytes(model: Model, shards: int, devices: int, domains: int) -> int:
    """t / s, t more for each domain that is held apart, and what waits for a sum over devices.

    That is, unsharded on several devices, the bucket that is being summed; sharded, what is whole
    until then: an adapter's gradients, which wait for the last chunk, or in float32 one layer's or
    those outside the layers.
    """
    held = model.trained_size // shards + domains * model.trained_size
    if shards > 1:
        whole = SINGLE * max(model.layer_values, model.outside)
        return held + (model.trained_size if model.frozen else whole)
    bucket = min(model.trained, BUCKET) * model.trained_bytes
    return held + (bucket if devices > 1 else 0)


def reference_bytes(model: Model, shards: int, *, mixed: bool, shared: bool) -> int:
    """P / s, and what lies outside the layers, gathered; t where the base is shared."""
    if shared:
        return model.trained_size
    outside = model.outside * model.compute_bytes(mixed) if shards > 1 else 0
    return model.size // shards + outside


def activation_bytes(
    model: Model, tokens: int, *, mixed: bool, checkpointing: bool, sharded: bool
) -> int:
    """What autograd keeps of a forward pass of T tokens, attention by flash or memory-efficient.

    A layer keeps T times `token_bytes`; frozen float32 weights that are cast to bfloat16 stay as
    copies, too. With checkpointing every layer keeps its input, r * h, and one layer the whole.
    """
    # Sums with float32 embeddings stay float32 under autocast; FSDP gathers them in bfloat16.
    between = model.compute_bytes(mixed) if sharded else model.stored_bytes
    cast = model.frozen > 0 and mixed and not sharded and model.frozen_bytes > HALF
    layer = tokens * token_bytes(model, mixed=mixed) + (model.layer_values * HALF if cast else 0)
    if checkpointing:
        return layer + model.layers * tokens * model.hidden * between
    return model.layers * layer


def token_bytes(model: Model, *, mixed: bool) -> int:
    """What autograd keeps of a token in a layer.

    Queries, keys, values and the attention's output, c (2q + 2k), with 4 bytes a head; gate, its
    activation, the other half and their product, c * 4f; inputs of the linear layers, c * 5h where
    each one casts its own (mixed precision, LoRA), else c * 2h; each of the two norms, 4h in
    float32, twice that where the norm trains. LoRA adds a copy of the input of the attention's
    output layer, c * q, and the dropout masks, 5h + q + f.
    """
    compute, adapter = model.compute_bytes(mixed), model.frozen > 0
    inputs = 5 if mixed or adapter else 2
    kept = compute * (2 * model.queries + 2 * model.keys + 4 * model.inner + inputs * model.hidden)
    kept += SINGLE * model.heads + 2 * SINGLE * model.hidden * (1 if adapter else 2)
    if adapter:
        kept += compute * model.queries + 5 * model.hidden + model.queries + model.inner
    return kept


def cards_that_hold(total: int) -> tuple[int, ...]:
    """The GPUs of `CARDS` on which so many counted bytes leave a tenth free."""
    return tuple(card for card in CARDS if total <= USABLE * card * GIGA)
