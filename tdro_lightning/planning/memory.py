"""Memory of one device in a training stage, by arithmetic, before anything is loaded.

Legend: P parameters, t of them trained, on s shards; T tokens whose activations are held at once;
of a layer, h its width, f the inner width of its MLP, q and k the widths of its queries and keys; c
bytes of a value in the forward pass; r bytes of a value between layers. Of a sparse head, V is the
number of terms, all of which may be active in the first steps.

Not counted: the CUDA context, fragments between allocations, buffers inside kernels and the
gradients of activations on their way back. `cards_that_hold` leaves room for them.
"""

from dataclasses import astuple, dataclass

from tdro_lightning.distributed.collectives import BUCKET
from tdro_lightning.files import GIGA
from tdro_lightning.models.tiled_max import TILE

CARDS = (24, 40, 80, 141)  # GB of common GPUs
USABLE = 0.9  # share of a card that the counted memory may take
HALF, SINGLE = 2, 4  # bytes of a bfloat16 and of a float32
# Of sparse vectors: they, their gradient, the same in the order of the chunks, and summed over
# equal texts. Those of dense vectors are small beside the rest, and two are counted.
COPIES = 4
BACKWARD = 3  # arrays of a sparse head's backward pass, by measurement in tests/planning


@dataclass(frozen=True)
class Output:
    """What the memory of a sparse head depends on.

    Args:
        terms: values of a vector, V.
        values: parameters of the head's own: its weight where that is not the embeddings', its
            bias, and what comes before it.
        tied: whether the weight is the embeddings'.
        trained: whether the head learns.
        stored_bytes: bytes of one of its parameters, of a gradient and of each AdamW moment.
    """

    terms: int
    values: int
    tied: bool
    trained: bool
    stored_bytes: int

    @property
    def size(self) -> int:
        """Bytes of the parameters of its own."""
        return self.values * self.stored_bytes

    @property
    def trained_size(self) -> int:
        """Bytes of those with gradient."""
        return self.size if self.trained else 0


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
        output: the sparse head, whose parameters are in none of these; None for dense vectors.
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
    output: Output | None = None

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
    others: int = 0,
    texts: int = 0,
    chunks: int = 1,
) -> Memory:
    """Estimated memory of one device while a model trains; each part is a function below.

    Args:
        model: the model that trains.
        tokens: padded tokens on this device whose activations are held at once.
        vectors: embeddings of the texts of this device.
        mixed: whether the forward pass computes in bfloat16 whatever the parameters are.
        checkpointing: whether only the input of each layer is kept.
        devices: devices that share the batch.
        parameter_shards: devices that share the model: all of them under FSDP, else 1.
        reference: whether a frozen copy of the model is held beside it, as tDRO does.
        shared: whether that copy is another adapter on the same base.
        domains: domains whose gradients are held apart, as tDRO in one pass does.
        others: embeddings that are gathered from all devices, as fine-tuning does.
        texts: texts of the tokens whose activations are held; a sparse head alone asks.
        chunks: forward passes that these tokens take; a sharded sparse head alone asks.
    """
    shards = parameter_shards
    kept = activation_bytes(
        model, tokens, mixed=mixed, checkpointing=checkpointing, sharded=shards > 1
    )
    made = Memory(
        parameters=parameter_bytes(model, shards, mixed=mixed),
        gradients=gradient_bytes(model, shards, devices, domains),
        optimiser=2 * model.trained_size // shards,  # AdamW's two moments
        reference=reference_bytes(model, shards, mixed=mixed, shared=shared) if reference else 0,
        # Embeddings and their gradients are float32 whatever the model is.
        activations=kept + 2 * (vectors + others) * model.hidden * SINGLE,
    )
    if model.output is None:
        return made
    head = model.output
    # Of the weight, unless an adapter freezes the embeddings that it is.
    learns = head.trained and not (head.tied and model.frozen)
    chunk_gradient = learns * head.terms * model.hidden * head.stored_bytes
    vector_bytes = (COPIES * vectors + 2 * others) * head.terms * SINGLE
    return Memory(
        parameters=made.parameters + head.size + gathered_bytes(model, head, shards, chunks),
        gradients=made.gradients + head.trained_size + chunk_gradient,
        optimiser=made.optimiser + 2 * head.trained_size,
        reference=made.reference + (head.size if reference and not shared else 0),
        activations=kept + vector_bytes + head_bytes(model, head, tokens, texts),
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


def gathered_bytes(model: Model, head: Output, shards: int, chunks: int) -> int:
    """V * h for each chunk, of sharded embeddings that are a head's weight; twice where it trains.

    A head of its own weight is not sharded.
    """
    if shards == 1 or not head.tied:
        return 0
    return chunks * (1 + head.trained) * head.terms * model.hidden * head.stored_bytes


def head_bytes(model: Model, head: Output, tokens: int, texts: int) -> int:
    """What a sparse head holds of so many texts, and for a time of a chunk of them.

    Kept are [texts, V] values, in float32, with the token of each; of a head that trains the
    states too. For a time there are a tile's logits and the states that they are made of, or in
    the backward pass `BACKWARD` arrays as large as the values.
    """
    pooled = texts * head.terms * SINGLE
    states = tokens * model.hidden * head.stored_bytes
    forward = tokens * TILE * head.stored_bytes + 2 * states
    return 2 * pooled + head.trained * states + max(forward, BACKWARD * pooled)


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
