"""Shapes that fill a volume, and noise for their flow."""

import math

import numpy as np

from ..blocks.geometry import triple
from ..given import check_unmasked, finite_number, integer
from ..kernels import painting

Shape = tuple[int, int, int]

_TRIES = 1000  # places tried for one object before the volume counts as full
_LEAST_STRETCH = 0.8  # of one axis of a plate's ellipse over the other


def blobs(
    shape: Shape, n: int, seed: int = 0, *, radius: tuple[float, float] = (7.5, 13.8), margin: int = 0
) -> np.ndarray:
    """Ellipsoids at random places.

    Parameters
    ----------
    shape : tuple of int
        (D, H, W).
    n : int
        Number of objects.
    seed : int, default 0
        Seed of the random numbers.
    radius : tuple of float, default (7.5, 13.8)
        Lowest and highest semi-axis in voxels, at least 1; each axis of each object is drawn independently. With the
        default, 600 objects fill about 17 % of 256**3 voxels.
    margin : int, default 0
        Voxels left free along the faces of the volume; with 1 or more, tiles of the volume do not touch.

    Returns
    -------
    ndarray of int32, shape (D, H, W)
        Ids 1..n, 0 = background.

    Raises
    ------
    TypeError
        A parameter is not of its type.
    ValueError
        An object finds no free place in 1000 tries, is larger than the volume, or is thinner than 1; or a parameter is
        out of its range.

    Examples
    --------
    >>> from topo_dask.synthetic import blobs
    >>> labels = blobs((64, 64, 64), 9, seed=1)
    >>> labels.shape, int(labels.max())
    ((64, 64, 64), 9)
    """
    shape, margin, n = triple(shape, "shape"), integer(margin, "margin", 0), integer(n, "n", 0)
    radius = _range(radius)
    if min(radius) < 1.0:
        raise ValueError(f"radius is {radius}; expected at least 1, so that no object lies between the voxels")
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for label in range(1, n + 1):
        for _ in range(_TRIES):
            radii = rng.uniform(*radius, 3)
            centre = _inner_point(rng, shape, radii + margin)
            if painting.ellipsoid_is_free(labels, centre, radii):
                painting.paint_ellipsoid(labels, centre, radii, label)
                break
        else:
            raise _full("blobs", label, n, shape)
    return labels


def tubes(
    shape: Shape, n: int, seed: int = 0, *, radius: float = 3.0, length: int = 120, margin: int = 0
) -> np.ndarray:
    """Tubes around smooth random walks, a stand-in for mitochondria and neurites.

    A walk takes steps of half a voxel and turns a little at each; the faces of the volume reflect it. It ends where it
    would meet an earlier tube; if less than a quarter of it is left, it is drawn again.

    Parameters
    ----------
    shape : tuple of int
        (D, H, W).
    n : int
        Number of objects.
    seed : int, default 0
        Seed of the random numbers.
    radius : float, default 3.0
        Radius of the tubes, voxels, at least 1.
    length : int, default 120
        Length of a walk, voxels, at least 1.
    margin : int, default 0
        Voxels left free along the faces of the volume.

    Returns
    -------
    ndarray of int32, shape (D, H, W)
        Ids 1..n, 0 = background.

    Raises
    ------
    TypeError
        A parameter is not of its type.
    ValueError
        A tube finds no free place in 1000 tries, is wider than the volume, or is thinner or shorter than 1; or a
        parameter is out of its range.

    Examples
    --------
    >>> from topo_dask.synthetic import tubes
    >>> int(tubes((48, 48, 48), 5, seed=1, radius=2.0, length=60).max())
    5
    """
    shape, margin, n = triple(shape, "shape"), integer(margin, "margin", 0), integer(n, "n", 0)
    radius, length = finite_number(radius, "radius"), integer(length, "length", 1)
    if radius < 1.0:
        raise ValueError(f"radius is {radius}; expected at least 1, so that tubes are connected through faces")
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for label in range(1, n + 1):
        for _ in range(_TRIES):
            path = _walk(rng, shape, 2 * length, radius + margin)
            free = painting.free_length(labels, path, radius)
            if 4 * free >= len(path):
                painting.paint_path(labels, path[:free], radius, label)
                break
        else:
            raise _full("tubes", label, n, shape)
    return labels


def touching_plates(
    shape: Shape,
    n_stacks: int = 5,
    seed: int = 0,
    *,
    plates: int = 5,
    thickness: int = 5,
    radius: tuple[float, float] = (14.0, 22.0),
    bend: float = 4.0,
    margin: int = 0,
) -> np.ndarray:
    """Stacks of slightly curved plates that touch face to face, a stand-in for cisternae and vesicles.

    Only the flow tells the plates of a stack apart.

    Parameters
    ----------
    shape : tuple of int
        (D, H, W).
    n_stacks : int, default 5
        Number of stacks. A stack is piled up along z, y or x.
    seed : int, default 0
        Seed of the random numbers.
    plates : int, default 5
        Plates in a stack.
    thickness : int, default 5
        Voxels from one face of a plate to the other. It must exceed the rise of a plate from one voxel to the next.
    radius : tuple of float, default (14.0, 22.0)
        Lowest and highest radius of a stack, voxels.
    bend : float, default 4.0
        Largest height of a stack's rim above or below its middle, voxels, at least 0.
    margin : int, default 0
        Voxels left free along the faces of the volume.

    Returns
    -------
    ndarray of int32, shape (D, H, W)
        Ids 1..n_stacks * plates, ascending along each stack, 0 = background.

    Raises
    ------
    TypeError
        A parameter is not of its type.
    ValueError
        A stack finds no free place in 1000 tries, or is larger than the volume; plates are too thin for their bend; or
        a parameter is out of its range.

    Examples
    --------
    >>> from topo_dask.synthetic import touching_plates
    >>> int(touching_plates((96, 96, 96), seed=1).max())
    25
    """
    shape, margin, n_stacks = triple(shape, "shape"), integer(margin, "margin", 0), integer(n_stacks, "n_stacks", 0)
    plates, thickness = integer(plates, "plates", 1), integer(thickness, "thickness", 1)
    radius, bend = _range(radius), finite_number(bend, "bend")
    if radius[0] <= 0:
        raise ValueError(f"radius is {radius}; expected above 0")
    if bend < 0:
        raise ValueError(f"bend is {bend}; expected at least 0")
    # A rim rises by less than this from voxel to voxel: twice the bend over the shorter radius of the ellipse.
    rise = 2 * bend / (_LEAST_STRETCH * max(1.0, min(radius)))
    if thickness < 1 + rise:
        raise ValueError(
            f"thickness is {thickness}; expected at least {1 + math.ceil(rise)} for bend {bend} and radius {radius}, "
            "so that plates are connected through faces"
        )
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for stack in range(n_stacks):
        for _ in range(_TRIES):
            piled = _stack(rng, plates, thickness, rng.uniform(*radius), rng.uniform(-bend, bend))
            solid = np.moveaxis(piled, 0, rng.integers(3))
            half = np.array(solid.shape) / 2
            corner = np.rint(_inner_point(rng, shape, half + margin + 0.5) - half + 0.5).astype(int)
            place = labels[tuple(slice(c, c + s) for c, s in zip(corner, solid.shape, strict=True))]
            if not (place[solid > 0] > 0).any():
                place[solid > 0] = solid[solid > 0] + stack * plates
                break
        else:
            raise _full("touching_plates", stack + 1, n_stacks, shape)
    return labels


def noisy(flow: np.ndarray, sigma: float, seed: int = 0, labels: np.ndarray | None = None) -> np.ndarray:
    """Flow with smooth noise, a stand-in for a network's prediction.

    Each component gets normal noise, filtered by a Gaussian of 1.5 voxels and scaled to standard deviation
    `sigma` over the volume. Then every vector that was not zero is scaled to unit length.

    Parameters
    ----------
    flow : ndarray of float, shape (3, D, H, W)
        Components dz, dy, dx, of about unit length, 0 in the background.
    sigma : float
        Standard deviation of the noise, voxels, at least 0.
    seed : int, default 0
        Seed of the random numbers.
    labels : ndarray of integer, shape (D, H, W), optional
        Noise goes where these are not 0; vectors that were zero (at an object's centre) become noise of the
        length drawn. By default noise goes where the flow is not zero.

    Returns
    -------
    ndarray of the type of `flow`, shape (3, D, H, W)
        0 where no noise goes and the flow was 0.

    Raises
    ------
    TypeError
        `flow` is not a NumPy array of floats, `labels` is not a NumPy array, or `sigma` is not a number; or values are
        masked.
    ValueError
        `sigma` is negative, not finite or 1e30 or more; `flow` does not have the shape (3, D, H, W), or has less than
        two voxels, so that noise cannot vary; or `labels` does not fit `flow`.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.synthetic import noisy
    >>> flow = np.zeros((3, 8, 8, 8), np.float32)
    >>> flow[0, 2:6] = 1
    >>> bool(np.allclose(np.linalg.norm(noisy(flow, 0.2), axis=0), flow[0]))
    True
    """
    from scipy.ndimage import gaussian_filter

    for name, array in (("flow", flow), ("labels", flow if labels is None else labels)):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is a {type(array).__name__}; expected a NumPy array")
        check_unmasked(array, name)
    if flow.dtype.kind != "f":
        raise TypeError(f"flow has dtype {flow.dtype}; expected floats, as noise in integers is cut off")
    if flow.ndim != 4 or len(flow) != 3 or flow[0].size < 2:
        raise ValueError(f"flow has shape {flow.shape}; expected (3, D, H, W) of at least two voxels")
    sigma = finite_number(sigma, "sigma")
    if not 0 <= sigma < 1e30:  # there would be no float32 for the noise
        raise ValueError(f"sigma is {sigma}; expected at least 0 and below 1e30")
    if labels is not None and labels.shape != flow.shape[1:]:
        raise ValueError(f"labels has shape {labels.shape}; expected {flow.shape[1:]}, as flow has {flow.shape}")
    moving = (flow != 0).any(axis=0)
    where = moving if labels is None else labels != 0
    rng = np.random.default_rng(seed)
    out = flow.astype(np.result_type(flow.dtype, np.float32))  # halves are too coarse to add noise in
    for component in out:
        noise = gaussian_filter(rng.standard_normal(component.shape, np.float32), 1.5)
        component[where] += (noise * (sigma / noise.std()))[where]
    length = np.sqrt((out.astype(np.float64) ** 2).sum(axis=0))
    return (out / np.where(moving & (length > 0), length, 1.0)).astype(flow.dtype)


def _range(radius: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(radius, tuple | list) or len(radius) != 2:
        raise TypeError(f"radius is {radius!r}; expected two numbers, the lowest and the highest")
    low, high = (finite_number(value, "each of radius") for value in radius)
    if low > high:
        raise ValueError(f"radius is {radius}; expected the lowest first")
    return low, high


def _full(what: str, number: int, n: int, shape: Shape) -> ValueError:
    return ValueError(
        f"{what}: number {number} of {n} found no free place in {_TRIES} tries in shape {shape}; "
        "expected fewer or smaller objects, or a larger shape"
    )


def _inner_point(rng: np.random.Generator, shape: Shape, distance: np.ndarray) -> np.ndarray:
    """Draw a point at least `distance` from the volume's first and last voxel centres, per axis."""
    low, high = distance, np.array(shape) - 1 - distance
    if (low > high).any():
        raise ValueError(f"shape is {shape}; expected room for an object of half size {np.round(distance, 1).tolist()}")
    return rng.uniform(low, high)


def _walk(rng: np.random.Generator, shape: Shape, steps: int, distance: float) -> np.ndarray:
    """Draw a smooth path of half-voxel steps that keeps `distance` from the faces, float64 [steps, 3]."""
    low = np.full(3, distance)
    high = np.array(shape) - 1 - low
    point = _inner_point(rng, shape, low)
    heading = rng.standard_normal(3)
    path = np.empty((steps, 3))
    for i, turn in enumerate(rng.standard_normal((steps, 3))):
        heading += 0.1 * turn
        heading /= math.sqrt(float(heading @ heading))
        path[i] = point
        point = point + 0.5 * heading
        heading[(point < low) | (point > high)] *= -1
        point = np.clip(point, low, high)
    return path


def _stack(rng: np.random.Generator, plates: int, thickness: int, radius: float, bend: float) -> np.ndarray:
    """Draw one stack piled up along axis 0, int32; plates are numbered 1..plates."""
    half = int(radius)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    stretch = rng.uniform(_LEAST_STRETCH, 1.0)
    distance = (y / stretch) ** 2 + x**2
    lift = np.rint(bend * distance / radius**2).astype(int)
    lift -= lift[distance <= radius**2].min()
    top = int(lift[distance <= radius**2].max()) + plates * thickness
    height = np.arange(top)[:, None, None] - lift
    number = height // thickness + 1
    inside = (distance <= radius**2) & (number >= 1) & (number <= plates)
    return np.where(inside, number, 0).astype(np.int32)
