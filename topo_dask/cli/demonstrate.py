"""``demo``: a real image, segmented from itself."""

import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default="topo_dask_demo",
    help="Folder to write to.",
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def demo(folder: Path, quiet: bool) -> None:
    """Segment a real image of cell nuclei, from the image alone, and draw the result."""
    from ..demo import run_demo

    result = run_demo(folder, progress=not quiet)
    click.echo(f"nuclei found            {result.n_nuclei} ({result.n_truth} in the shipped labels)")
    wrong = result.mistakes
    click.echo(f"of those               {wrong.splits} cut, {wrong.merges} united, {wrong.missed} missed")
    click.echo(f"adapted Rand error      {result.rand_error:.4f}")
    click.echo(f"block-wise = in memory  {'yes, bit for bit' if result.equal else 'NO'}")
    click.echo(f"labels                  {folder / 'labels.zarr' / 'labels' / 'nuclei'}")
    click.echo(f"picture                 {folder / 'overview.png'}")
    if not result.equal:
        sys.exit(1)
