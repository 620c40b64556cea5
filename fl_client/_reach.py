"""Ask the coordinator's `/health`, outbound over TLS under the pinned CA and no other."""

from __future__ import annotations

import datetime as dt
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

__all__ = ["Reached", "reach"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What came of it.

    Attributes:
        trouble: Empty where the coordinator answered, else why not, in a word of ours.
        date: Its clock, where it told.
    """

    trouble: str = ""
    date: dt.datetime | None = None


def reach(address: str, ca: Path, *, timeout_s: float) -> Reached:
    """Return whether the coordinator answers; the proxy variables are honoured."""
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError):
        return Reached(trouble="the CA certificate cannot be read")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), _NoRedirect()
    )
    try:
        with opener.open(f"https://{address}/health", timeout=timeout_s) as answer:
            told = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        told = error.headers.get("Date")  # it answered: that is all that is asked
    except ssl.SSLCertVerificationError:
        return Reached(trouble=_WRONG_CA)
    except urllib.error.URLError as error:
        wrong = isinstance(error.reason, ssl.SSLCertVerificationError)
        return Reached(trouble=_WRONG_CA if wrong else "no connection")
    except (OSError, ValueError):
        return Reached(trouble="no connection")
    try:
        date = None if told is None else parsedate_to_datetime(told)
    except ValueError:
        date = None
    return Reached(date=date if date is None or date.tzinfo else date.replace(tzinfo=dt.UTC))


_WRONG_CA = "its certificate is not of the pinned CA, has ended, or names another host"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: object, **named: object) -> None:
        """Follow nothing: the pinned coordinator answers itself or not at all."""
