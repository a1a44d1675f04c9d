"""What classes are called, for models that know images by their texts."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.saying import print_lines

app = typer.Typer(add_completion=False)


@app.command("embed-classes")
def embed_classes(
    classes: Annotated[Path, typer.Argument(metavar="CLASSES", help="Class names, one a line, in the images' order.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="Where to write the text embeddings.")],
    model: Annotated[str, typer.Option("--model", help="An open_clip model, e.g. ViT-B-32.")],
    pretrained: Annotated[str, typer.Option("--pretrained", help="Its weights: open_clip's tag, or a .safetensors file.")],
    template: Annotated[
        list[str] | None, typer.Option("--template", metavar="TEXT", help="A prompt with {} for the class; repeatable.")
    ] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="What a weights file must have.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Make zero-shot texts of class names.

    What a CLIP's text tower makes of them, for `zero_shot:` of teachers and students. Needs the extra `clip`.
    """
    from edgekd import students

    lines = students.embed_classes(
        classes, out, model=model, pretrained=pretrained, templates=template or (), sha256=sha256, overwrite=overwrite
    )
    print_lines(lines)
