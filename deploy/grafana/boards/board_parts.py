"""What the dashboards are made of: panels and variables in the one form that all of them have.

Every panel has a unit and a description that says what to do: the functions here demand both.
"""

from __future__ import annotations

from collections.abc import Iterable

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
#: The tag of each board. The boards link to all boards that have it.
TAG = "gowork"

Panel = Builder[models.Panel]
#: (the value from which the colour holds, the colour), lowest first; None stands for all values below the next.
Steps = list[tuple[float | None, str]]


def query(expression: str, legend: str = "", *, exemplars: bool = False) -> prometheus.Dataquery:
    """A query over the board's time; with exemplars its points lead to traces."""
    asked = prometheus.Dataquery().expr(expression).legend_format(legend).range()
    return asked.exemplar(True) if exemplars else asked


def now(expression: str, legend: str = "") -> prometheus.Dataquery:
    """A query for the newest values alone."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).instant()


def number(
    title: str, description: str, unit: str, expression: str, steps: Steps, *, words: dict[str, str] | None = None
) -> Panel:
    """One number, coloured by what it means; `words` stand for some values, and `none` for no value."""
    words = words or {}
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .decimals(0 if unit == "short" else 1)
        .height(4)
        .span(4)
        .thresholds(_thresholds(steps))
        .color_scheme(build.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .color_mode(common_models.BigValueColorMode.BACKGROUND)
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .no_value(words.get("none", "none"))
        .with_target(_numbered([now(expression)])[0])
    )
    texts = {value: models.ValueMappingResult(text=text) for value, text in words.items() if value != "none"}
    return panel.mappings([models.ValueMap(options=texts)]) if texts else panel


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    stacked: bool = False,
    limit: float | None = None,
    span: int = 12,
) -> Panel:
    """Lines over time, or areas on top of each other; `limit` draws where an alert begins."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .height(8)
        .span(span)
        .fill_opacity(40 if stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.TABLE)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
        .targets(list(_numbered(queries)))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if limit is not None:
        panel = panel.thresholds(_thresholds([(None, GREEN), (limit, RED)])).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    return panel


def states(title: str, description: str, asked: prometheus.Dataquery, words: dict[str, tuple[str, str]]) -> Panel:
    """One bar for each series, coloured by its value: {value: (word, colour)}."""
    texts = {value: models.ValueMappingResult(text=text, color=color) for value, (text, color) in words.items()}
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit("short")
        .height(8)
        .span(12)
        .mappings([models.ValueMap(options=texts)])
        .show_value(common_models.VisibilityMode.NEVER)
        .targets(list(_numbered([asked])))
    )


def rows(title: str, description: str, key: str, columns: list[tuple[str, str, str]], *, span: int = 24) -> Panel:
    """A table with a row for each value of the label `key`, and columns of (name, unit, expression)."""
    asked = _numbered([now(expression).format(PromQueryFormat.TABLE) for _, _, expression in columns])
    # Grafana names each column after the letter of its query if there are several, and "Value" if there is one.
    values = [f"Value #{_letter(number)}" if len(columns) > 1 else "Value" for number in range(len(columns))]
    names = {value: name for value, (name, _, _) in zip(values, columns, strict=True)}
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit("short")
        .height(8)
        .span(span)
        .targets(list(asked))
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize", options={"excludeByName": {"Time": True, "job": True}, "renameByName": names}
            )
        )
        .sort_by([common.TableSortByFieldState().display_name(key)])
    )
    for name, unit, _ in columns:
        panel = panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return panel


def board(uid: str, title: str, description: str, variables: list[Builder[models.VariableModel]]) -> build.Dashboard:
    """An empty board that is linked to the others."""
    link = build.DashboardLink("gowork").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("15s")
        .time("now-1h", "now")
        .link(link.keep_time(True).include_vars(True).as_dropdown(False))
        .variables([build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"), *variables])
    )


def variable(name: str, values: str) -> Builder[models.VariableModel]:
    """A variable that takes any number of a label's values, or all of them, including those that appear later."""
    return (
        build.QueryVariable(name)
        .label(name)
        .datasource(PROMETHEUS)
        .query(values)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def quantiles(metric: str, filters: str, *shares: float, by: str = "") -> list[prometheus.Dataquery]:
    """Quantiles of a histogram over time, with exemplars; one line for each share, and for each value of `by`."""
    labels = f"{by}, le" if by else "le"
    each = f"{{{{{by}}}}} " if by else ""
    return [
        query(
            f"histogram_quantile({share:g}, sum by ({labels}) (rate({metric}_bucket{{{filters}}}[$__rate_interval])))",
            f"{each}p{share * 100:g}",
            exemplars=True,
        )
        for share in shares
    ]


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def _numbered(queries: Iterable[prometheus.Dataquery]) -> list[prometheus.Dataquery]:
    return [asked.ref_id(_letter(number)).datasource(PROMETHEUS) for number, asked in enumerate(queries)]


def _letter(number: int) -> str:
    return chr(ord("A") + number)
