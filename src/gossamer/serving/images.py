"""Images as strangers send them: bytes of a known format, within bounds, or a sentence that says what is wrong with them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from gossamer.data.images import exif_unremarked, to_rgb
from gossamer.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class TooManyPixels(UserError):
    """An image is larger than is allowed."""


def decoded(data: bytes, max_pixels: int) -> Image:
    """The image of a file's bytes in RGB, of several pictures the first.

    Raises:
        TooManyPixels: it has more than `max_pixels`; they are not decoded.
        UserError: it is no image, or a damaged one.
    """
    from PIL import Image

    try:
        with exif_unremarked:  # it holds for all threads that read
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > max_pixels:
                raise TooManyPixels(f"the image has {width} x {height} pixels; at most {max_pixels:,} are taken")
            return to_rgb(image)
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UserError(f"this is no image of a known format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"the image has too many pixels; at most {max_pixels:,} are taken") from error
    except Exception as error:  # whatever PIL stumbles over in a damaged file
        raise UserError(f"the image is damaged: {type(error).__name__}: {error}") from error
