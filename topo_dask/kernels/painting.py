"""Paint solid shapes into a label volume, each within its own bounding box."""

import numpy as np

from .compiled import allocating_kernel


@allocating_kernel
def _reach(labels: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    # Returns the first voxel per axis that the ellipsoid can touch and one past the last, clipped to the volume.
    reach = np.empty((3, 2), np.int64)
    for axis in range(3):
        reach[axis, 0] = max(0, int(np.ceil(centre[axis] - radii[axis])))
        reach[axis, 1] = min(labels.shape[axis], int(np.floor(centre[axis] + radii[axis])) + 1)
    return reach


@allocating_kernel
def ellipsoid_is_free(labels: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> bool:
    """Whether all voxels of an ellipsoid are 0.

    Parameters
    ----------
    labels : ndarray of int32, shape (D, H, W)
    centre, radii : ndarray of float64, shape (3,)
        Voxels; semi-axes along z, y, x. A voxel belongs to the ellipsoid when its centre does, border
        included.
    """
    reach = _reach(labels, centre, radii)
    for z in range(reach[0, 0], reach[0, 1]):
        dz = ((z - centre[0]) / radii[0]) ** 2
        for y in range(reach[1, 0], reach[1, 1]):
            dzy = dz + ((y - centre[1]) / radii[1]) ** 2
            for x in range(reach[2, 0], reach[2, 1]):
                if dzy + ((x - centre[2]) / radii[2]) ** 2 <= 1.0 and labels[z, y, x] != 0:
                    return False
    return True


@allocating_kernel
def paint_ellipsoid(labels: np.ndarray, centre: np.ndarray, radii: np.ndarray, label: int) -> None:
    """Set the voxels of an ellipsoid to `label`, in place; the rest as for `ellipsoid_is_free`."""
    reach = _reach(labels, centre, radii)
    for z in range(reach[0, 0], reach[0, 1]):
        dz = ((z - centre[0]) / radii[0]) ** 2
        for y in range(reach[1, 0], reach[1, 1]):
            dzy = dz + ((y - centre[1]) / radii[1]) ** 2
            for x in range(reach[2, 0], reach[2, 1]):
                if dzy + ((x - centre[2]) / radii[2]) ** 2 <= 1.0:
                    labels[z, y, x] = label


@allocating_kernel
def free_length(labels: np.ndarray, path: np.ndarray, radius: float) -> int:
    """Return how many points of a path come before the first one whose ball meets an object.

    Parameters
    ----------
    labels : ndarray of int32, shape (D, H, W)
    path : ndarray of float64, shape (n, 3)
    radius : float
        Radius of the ball around each point, voxels.
    """
    radii = np.full(3, radius)
    for i in range(path.shape[0]):
        if not ellipsoid_is_free(labels, path[i], radii):
            return i
    return int(path.shape[0])


@allocating_kernel
def paint_path(labels: np.ndarray, path: np.ndarray, radius: float, label: int) -> None:
    """Set the voxels within `radius` of a path's points to `label`, in place (see `free_length`)."""
    radii = np.full(3, radius)
    for i in range(path.shape[0]):
        paint_ellipsoid(labels, path[i], radii, label)
