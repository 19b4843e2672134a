"""The formats of a JSON schema that are kept, each as a regular expression that is matched whole.

Those of RFC 3339 (dates and times), RFC 5321 (e-mail), RFC 1123 (host names), RFC 2673 and 4291 (addresses),
RFC 4122 (uuid) and RFC 3986. All other formats are remarks, as JSON Schema has them.
"""

from __future__ import annotations

_LONG = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"  # months of 31 days
_SHORT = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_MONTH_DAY = f"(?:{_LONG}|{_SHORT}|02-(?:0[1-9]|1[0-9]|2[0-9]))"
_DATE = f"[0-9]{{4}}-{_MONTH_DAY}"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[zZ]|[+-]{_CLOCK})"
_D = "[0-9]+D"
_H = "(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))"
_DURATION = f"P(?:(?:[0-9]+Y(?:[0-9]+M(?:{_D})?)?|[0-9]+M(?:{_D})?|{_D}){_H}?|{_H}|[0-9]+W)"
_ATOM = r"[a-zA-Z0-9!#$%&'*+\-/=?\^_`{|}~]+"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"
_IPV4 = rf"(?:{_BYTE}\.){{3}}{_BYTE}"
_NAME = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HEX = "[0-9a-fA-F]"
_GROUP = f"{_HEX}{{1,4}}"


def _ipv6() -> str:
    """Eight groups, or fewer with one gap among them."""
    layouts = [f"(?:{_GROUP}:){{7}}{_GROUP}", f"::(?:{_GROUP}:){{0,5}}{_GROUP}:{_GROUP}"]
    for before in range(7):
        if before:
            front = f"(?:(?:{_GROUP}:){{0,{before}}}{_GROUP})?"
        else:
            front = f"(?:{_GROUP})?"
        behind = 4 - before
        if behind >= 0:
            tail = f"(?:{_GROUP}:){{0,{behind}}}{_GROUP}:{_GROUP}"
        else:
            tail = ""
            if before == 5:
                tail = _GROUP
        layouts.append(f"{front}::{tail}")
    return "|".join(f"(?:{layout})" for layout in layouts)


def _uri() -> str:
    plain = r"a-zA-Z0-9\-._~!$&'()*+,;="
    escaped = f"%{_HEX}{{2}}"
    letter = f"(?:[{plain}:@]|{escaped})"
    rest = f"(?:/{letter}*)*"
    user = f"(?:(?:[{plain}:]|{escaped})*@)?"
    groups = [f"(?:{_GROUP}:){{7}}{_GROUP}", f"(?:{_GROUP}:){{1,7}}:", f"(?:{_GROUP}:){{1,6}}:{_GROUP}"]
    groups += [f"(?:{_GROUP}:){{1,{6 - n}}}(?::{_GROUP}){{1,{n + 1}}}" for n in range(1, 5)]
    groups += [f"{_GROUP}:(?::{_GROUP}){{1,6}}", f":(?::{_GROUP}){{1,7}}", "::", rf"v{_HEX}+\.[{plain}:]+"]
    host = rf"(?:\[(?:{'|'.join(groups)})\]|{_IPV4}|(?:[{plain}]|{escaped})*)"
    path = f"(?://{user}{host}(?::[0-9]*)?{rest}|/(?:{letter}+{rest})?|{letter}+{rest}|)"
    query = f"(?:[{plain}:@/?]|{escaped})*"
    return rf"[a-zA-Z][a-zA-Z0-9+\-.]*:{path}(?:\?{query})?(?:#{query})?"


FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[tT]{_TIME}",
    "duration": _DURATION,
    "email": rf"{_ATOM}(?:\.{_ATOM})*@(?:{_NAME}(?:\.{_NAME})*|\[{_IPV4}\])",
    "hostname": rf"{_LABEL}(?:\.{_LABEL})*",
    "ipv4": _IPV4,
    "ipv6": _ipv6(),
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "uri": _uri(),
}
