"""The page that `dvc plots show` fills, with its chart scripts inside: it needs no network."""

import sys
from pathlib import Path

_VEGA_LITE = "5.21"  # of the version 5 that DVC's templates are written for


def plots_page() -> str:
    """The template, as DVC's `plots.html_template` takes it."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VEGA_LITE)
    scripts = bundle.replace("</script", "<\\/script")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{refresh_tag}\n'
        f"<title>DVC plots</title>\n<script>{scripts}</script>\n</head>\n"
        "<body>\n{plot_divs}\n</body>\n</html>\n"
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(plots_page(), encoding="utf-8")
