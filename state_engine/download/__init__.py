"""One file from the web to disk: in pieces, resumed where it stopped, checked, then renamed.

    X.h5ad.part         what has arrived; kept when it stops, for whatever reason, and continued the next time
    X.h5ad.part.json    which bytes these are (`part.Origin`): address, ETag or date, length
    X.h5ad              whole and checked

A server that can continue says so (206 with the right Content-Range, for the same ETag: If-Range); with any other the file starts
again, unless its address stands for the same bytes for ever, as that of a commit does.

`remote` opens addresses, `part` is what lies on disk, `resume` brings the one to the other.
Boundary: HTTP and bytes; what a file means and who publishes it is not known here. Public data sets and the model hub both call it.
"""

from state_engine.download.part import Arrived
from state_engine.download.remote import CONNECT_SECONDS, RemoteFile, check_address, read_text
from state_engine.download.resume import download, waiting

__all__ = ["CONNECT_SECONDS", "Arrived", "RemoteFile", "check_address", "download", "read_text", "waiting"]
