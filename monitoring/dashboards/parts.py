"""Panels and variables for the dashboards, in a common style."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, logs, loki, prometheus, stat, table
from grafana_foundation_sdk.builders import timeseries as series
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphGradientMode,
    LegendDisplayMode,
    LegendPlacement,
    LogsSortOrder,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataTransformerConfig,
    DynamicConfigValue,
    Panel,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

#: The data sources selected in the dashboard's variables, so that it works in any Grafana.
METRICS: Final = DataSourceRef(type_val="prometheus", uid="${metrics}")
LINES: Final = DataSourceRef(type_val="loki", uid="${lines}")

#: Panel widths; a dashboard has 24 columns.
THIRD, HALF, WHOLE = 8, 12, 24


def board(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["sftp-gateway"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
    )


def choice_of_source(name: str, label: str, kind: str) -> dashboard.DatasourceVariable:
    """A variable that selects the Prometheus or Loki data source."""
    return dashboard.DatasourceVariable(name).label(label).type(kind)


def choice(name: str, label: str, source: DataSourceRef, query: Any) -> dashboard.QueryVariable:
    """A variable with the values of a query; all are selected by default."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(source)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(text="All", value="$__all"))
    )


def text_box(name: str, label: str, description: str) -> dashboard.TextBoxVariable:
    """A text box for a substring or a regular expression."""
    return dashboard.TextBoxVariable(name).label(label).description(description).default_value("")


def promql(expr: str, legend: str = "") -> prometheus.Dataquery:
    """A query of a chart."""
    return prometheus.Dataquery().datasource(METRICS).expr(expr).legend_format(legend).range()


def promql_now(expr: str, legend: str = "") -> prometheus.Dataquery:
    """An instant query, evaluated at the end of the time range."""
    return prometheus.Dataquery().datasource(METRICS).expr(expr).legend_format(legend).instant()


def logql(expr: str, legend: str = "") -> loki.Dataquery:
    """A range query of log lines, for charts and log panels."""
    query = loki.Dataquery().datasource(LINES).expr(expr).legend_format(legend)
    return query.query_type("range")


def logql_now(expr: str, legend: str = "") -> loki.Dataquery:
    """An instant query of log lines, for figures and tables."""
    query = loki.Dataquery().datasource(LINES).expr(expr).legend_format(legend)
    return query.query_type("instant")


Query = prometheus.Dataquery | loki.Dataquery

#: A panel of any kind.
AnyPanel = Builder[Panel]


def figure(
    title: str,
    query: Query,
    *,
    source: DataSourceRef,
    unit: str = "short",
    about: str = "",
    bad_from: float | None = None,
    text: BigValueTextMode = BigValueTextMode.VALUE,
    span: int = 4,
) -> stat.Panel:
    """A single number; red if it is at least `bad_from`."""
    steps = [Threshold(value=None, color="green")]
    if bad_from is not None:
        steps.append(Threshold(value=bad_from, color="red"))
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(source)
        .with_target(query.ref_id("A"))
        .unit(unit)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(text)
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .no_value("0")
        .height(4)
        .span(span)
    )


def chart(
    title: str,
    *queries: Query,
    source: DataSourceRef,
    unit: str = "short",
    about: str = "",
    stacked: bool = False,
    most: float | None = None,
    span: int = THIRD,
) -> series.Panel:
    """A time series, optionally stacked; `most` is the maximum of the axis."""
    panel = (
        series.Panel()
        .title(title)
        .description(about)
        .datasource(source)
        .targets(
            [query.ref_id(name) for name, query in zip(ascii_uppercase, queries, strict=False)]
        )
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 10)
        .gradient_mode(GraphGradientMode.NONE)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
        .height(8)
        .span(span)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    return panel


def listing(
    title: str,
    query: Query,
    *,
    columns: dict[str, str],
    value: str,
    source: DataSourceRef,
    unit: str = "short",
    about: str = "",
    span: int = HALF,
) -> table.Panel:
    """A table of an instant query; `columns` maps labels to headings, in this order."""
    names = [*columns, "Value #A"]
    return (
        table.Panel()
        .title(title)
        .description(about)
        .datasource(source)
        .with_target(query.ref_id("A"))
        .with_transformation(
            DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {name: place for place, name in enumerate(names)},
                    "renameByName": {**columns, "Value #A": value},
                },
            )
        )
        .override_by_name(value, [DynamicConfigValue(id_val="unit", value=unit)])
        .with_transformation(
            DataTransformerConfig(
                id_val="sortBy", options={"sort": [{"field": value, "desc": True}]}
            )
        )
        .height(9)
        .span(span)
    )


def lines(title: str, query: Query, *, about: str = "", height: int = 10) -> logs.Panel:
    """Log lines, newest first; a click shows all of a line's fields."""
    return (
        logs.Panel()
        .title(title)
        .description(about)
        .datasource(LINES)
        .with_target(query.ref_id("A"))
        .show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(LogsSortOrder.DESCENDING)
        .height(height)
        .span(WHOLE)
    )
