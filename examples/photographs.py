"""A folder of real photographs that every Python has at hand, cut into pieces, with captions.

    pip install scikit-image scikit-learn matplotlib
    python examples/photographs.py photographs

They ship inside scikit-image, scikit-learn and matplotlib. Each is resized so that its shorter side
has 256 pixels, and cut into pieces of 128 × 128 that overlap by half. photographs_held_out.txt
lists the pieces of the photographs that training must not see, for prepare --held_out_list.
"""

import importlib.util
import sys
from pathlib import Path

from PIL import Image

SIDE, PIECE, STEP = 256, 128, 64  # pixels
# Package, file, caption.
PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png", "an astronaut in an orange suit"),
    ("skimage", "data/camera.png", "a man with a camera, black and white"),
    ("skimage", "data/coffee.png", "a cup of coffee on a wooden table"),
    ("skimage", "data/rocket.jpg", "a rocket at its launch pad"),
    ("skimage", "data/retina.jpg", "a retina"),
    ("skimage", "data/brick.png", "a brick wall, black and white"),
    ("skimage", "data/grass.png", "grass, black and white"),
    ("skimage", "data/gravel.png", "gravel, black and white"),
    ("skimage", "data/coins.png", "old coins, black and white"),
    ("skimage", "data/moon.png", "the moon, black and white"),
    ("skimage", "data/hubble_deep_field.jpg", "galaxies"),
    ("skimage", "data/motorcycle_left.png", "a motorcycle in a garage"),
    ("sklearn", "datasets/images/flower.jpg", "a pink flower"),
    ("skimage", "data/chelsea.png", "a cat"),
    ("sklearn", "datasets/images/china.jpg", "a temple and trees"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "a woman in uniform"),
)
HELD_OUT = ("chelsea", "china", "grace_hopper")


def main(folder: Path) -> None:
    """Writes the pieces, a caption beside each, and the list of those that are held out."""
    folder.mkdir(parents=True, exist_ok=True)
    held_out = []
    for package, file, caption in PHOTOGRAPHS:
        found = importlib.util.find_spec(package)
        if found is None:
            sys.exit(f"{package} is not installed; it has {file}")
        picture = Image.open(Path(found.origin).parent / file).convert("RGB")
        scale = SIDE / min(picture.size)
        picture = picture.resize([round(side * scale) for side in picture.size])
        name = Path(file).stem
        for top in range(0, picture.height - PIECE + 1, STEP):
            for left in range(0, picture.width - PIECE + 1, STEP):
                piece = f"{name}_{top:03}_{left:03}"
                box = (left, top, left + PIECE, top + PIECE)
                picture.crop(box).save(folder / f"{piece}.png")
                (folder / f"{piece}.txt").write_text(caption + "\n")
                if name in HELD_OUT:
                    held_out.append(piece)
    listing = folder.with_name(f"{folder.name}_held_out.txt")
    listing.write_text("\n".join(held_out) + "\n")
    print(f"{len(list(folder.glob('*.png')))} pieces in {folder}, {len(held_out)} held out")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "photographs"))
