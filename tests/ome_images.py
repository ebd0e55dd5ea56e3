"""OME-Zarr images for tests, metadata first."""

import contextlib

import zarr


def scale(*values):
    return {"type": "scale", "scale": list(values)}


def shift(*values):
    return {"type": "translation", "translation": list(values)}


def space(unit, names="zyx"):
    return [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in names]


def image_of(axes, *chains, paths=None, **more):
    paths = paths or [f"s{k}" for k in range(len(chains))]
    datasets = [{"path": path, "coordinateTransformations": c} for path, c in zip(paths, chains, strict=True)]
    return {"axes": axes, "datasets": datasets, **more}


def write_image(path, image, version="0.5", shape=(8, 8, 8)):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for k, dataset in enumerate(image["datasets"]):
        small = tuple(max(1, n >> k) for n in shape)
        with contextlib.suppress(TypeError, KeyError, ValueError):
            group.create_array(dataset["path"], shape=small, chunks=small, dtype="u1")
    if version == "0.4":
        group.attrs["multiscales"] = [{"version": "0.4", **image}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return group
