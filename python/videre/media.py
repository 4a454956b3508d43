"""Pictures and clips as the engine takes them: by reference where their pixels lie in order."""

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ._errors import InvalidRequestError, NotFoundError
from ._videre import Media

_URL = re.compile(r"^(https?|file|data):", re.IGNORECASE)


def _is_pil(value: Any) -> bool:
    return hasattr(value, "tobytes") and hasattr(value, "mode") and hasattr(value, "convert") and hasattr(value, "size")


def _pil_pixels(image: Any) -> tuple[bytes, int, int]:
    """RGB bytes, height, width: upright by EXIF, what is transparent on white, as for files."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (image.mode in ("P", "L") and "transparency" in image.info):
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, (255, 255, 255))
        flat.paste(image, mask=image.getchannel("A"))
        image = flat
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return image.tobytes(), image.height, image.width


def _by_name(kind: str, value: Any, uuid: str) -> Media | None:
    """A URL, a file, or an encoded file's bytes."""
    if isinstance(value, str):
        if _URL.match(value):
            return Media.url(kind, value, uuid)
        value = os.path.expanduser(value)
    elif isinstance(value, (bytes, bytearray)):
        return Media.encoded(kind, bytes(value), uuid)
    elif not isinstance(value, os.PathLike):
        return None
    with open(value, "rb") as file:
        return Media.encoded(kind, file.read(), uuid)


def image_media(value: Any, uuid: str = "") -> Media:
    """One picture: PIL image, uint8 array or tensor [H, W, 3] or [3, H, W], path, URL or file's bytes."""
    named = _by_name("image", value, uuid)
    if named is not None:
        return named
    if _is_pil(value):
        data, height, width = _pil_pixels(value)
        return Media.image(data, [height, width], uuid)
    if isinstance(value, Mapping):
        raise InvalidRequestError(
            "image: embeddings are not taken; expected a PIL image or uint8 pixels", param="image"
        )
    return Media.image(value, uuid=uuid)


def _field(metadata: Any, name: str) -> Any:
    return metadata.get(name) if isinstance(metadata, Mapping) else getattr(metadata, name, None)


def _number(metadata: Any, name: str) -> float | None:
    value = _field(metadata, name)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequestError(f"video: metadata.{name} is {value!r}; expected a number", param="video") from None


def _is_metadata(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return hasattr(value, "fps") and hasattr(value, "frames_indices")


def video_media(value: Any, uuid: str = "") -> Media:
    """One clip: (frames, metadata), or a path, URL or file's bytes."""
    named = _by_name("video", value, uuid)
    if named is not None:
        return named
    if not (isinstance(value, (tuple, list)) and len(value) == 2 and _is_metadata(value[1])):
        raise InvalidRequestError(
            "video: a clip comes as (frames, metadata): metadata with fps and frames_indices is required, since "
            "the model is told each frame's time",
            param="video",
        )
    frames, metadata = value
    if isinstance(frames, (list, tuple)):
        frames = [_pil_pixels(frame) if _is_pil(frame) else frame for frame in frames]
    if getattr(frames, "ndim", 4) != 4:
        Media.video(frames, [], 1.0)  # says what is wrong with the shape
    try:
        num_frames = len(frames)
    except TypeError:
        raise InvalidRequestError(
            f"video: frames are of type {type(frames).__name__}; expected uint8 [frames, height, width, 3], or a list",
            param="video",
        ) from None
    indices, fps = _field(metadata, "frames_indices"), _number(metadata, "fps")
    total, duration = _number(metadata, "total_num_frames"), _number(metadata, "duration")
    if indices is None and total == num_frames:
        indices = range(num_frames)
    if indices is None:
        raise InvalidRequestError(
            f"video: metadata.frames_indices is missing; expected the source index of each of the {num_frames} frames",
            param="video",
        )
    try:
        indices = [int(index) for index in indices]
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequestError(
            "video: metadata.frames_indices is no list of numbers; expected the source index of each frame",
            param="video",
        ) from None
    if len(indices) != num_frames:
        raise InvalidRequestError(
            f"video: a clip of {num_frames} frames has {len(indices)} frames_indices; one a frame is expected",
            param="video",
        )
    for index in indices:
        if not 0 <= index < 2**53:
            raise InvalidRequestError(
                f"video: metadata.frames_indices holds {index}; expected an index of the source's frames", param="video"
            )
    if fps is None and num_frames == 1:
        fps = 1.0
        indices = [0]
    if fps is None or not 0 < fps < math.inf:
        raise InvalidRequestError(
            f"video: metadata.fps is {fps}; expected the rate that frames_indices count in", param="video"
        )
    if duration and num_frames > 1 and (indices[-1] - indices[0]) / fps > 1.5 * duration + 1:
        warnings.warn(
            f"the last frame's time is {indices[-1] / fps:.1f} s by its index and fps, but the clip's duration is "
            f"{duration:.1f} s; fps should be the rate that frames_indices count in, not that of sampling",
            stacklevel=2,
        )
    return Media.video(
        frames,
        indices,
        fps,
        duration if duration is not None and 0 <= duration < math.inf else None,
        None if total is None or not 0 <= total < 2**53 else int(total),
        uuid,
    )


def _many(value: Any, single_tuple: bool) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, tuple) and not (single_tuple and len(value) == 2 and _is_metadata(value[1])):
        return list(value)
    return [value]


def prompt_media(data: Mapping[str, Any] | None, uuids: Mapping[str, Any] | None = None) -> list[Media]:
    """`multi_modal_data` of a prompt, pictures first; each kind in the order of its placeholders."""
    if not data:
        return []
    if not isinstance(data, Mapping):
        raise InvalidRequestError(
            f"multi_modal_data is a {type(data).__name__}; expected a dict with image or video",
            param="multi_modal_data",
        )
    for key in data:
        if key not in ("image", "video"):
            raise InvalidRequestError(
                f"multi_modal_data has {key!r}; this model takes 'image' and 'video'", param="multi_modal_data"
            )
    media = []
    for kind, make in (("image", image_media), ("video", video_media)):
        value = data.get(kind)
        if value is None:
            continue
        items = _many(value, kind == "video")
        names = (uuids or {}).get(kind)
        names = [names] if isinstance(names, str) else list(names or ())
        if names and len(names) != len(items):
            raise InvalidRequestError(
                f"multi_modal_uuids has {len(names)} for {len(items)} of {kind}; one each is expected",
                param="multi_modal_uuids",
            )
        for i, item in enumerate(items):
            uuid = (names[i] or "") if names else ""
            media.append(Media.url(kind, "", uuid) if item is None and uuid else make(item, uuid))
    return media


def _check_file(part: Mapping[str, Any]) -> None:
    """A file: URL of a file that is not there; the server keeps that to itself, a script wants to know."""
    url = part.get(part["type"])
    url = url.get("url") if isinstance(url, Mapping) else url
    if isinstance(url, str) and url.startswith("file:///"):
        path = unquote(url[7:])
        if not os.path.exists(path):
            raise NotFoundError(f"{path} is not there", "not_found", "messages")


def chat_media(messages: Sequence[Any]) -> tuple[list[Any], list[tuple[str, Any, str]]]:
    """Messages with bare placeholders where parts bring objects, and those objects in order."""
    found: list[tuple[str, Any, str]] = []
    out: list[Any] = []
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, (list, tuple)):
            out.append(message)
            continue
        parts: list[Any] = []
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in ("image", "video", "image_pil"):
                if kind in ("image_url", "video_url"):
                    _check_file(part)
                parts.append(part)
                continue
            value = next((part[key] for key in (kind, "url", "path") if part.get(key) is not None), None)
            kind = "video" if kind == "video" else "image"
            parts.append({"type": kind})
            if value is not None:
                found.append((kind, value, part.get("uuid") or ""))
        out.append({**message, "content": parts})
    return out, found
