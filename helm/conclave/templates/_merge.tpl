{{/*
The escape hatch. Every object is defined as the template "conclave.object.NAME" and rendered through this one, which lays
.Values.merge.NAME over it: maps are merged key by key, lists whose items all have a `name` (containers, volumes, ports,
variables) name by name, anything else is replaced; null removes. (list $ "NAME")
*/}}
{{- define "conclave.object" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $object := include (printf "conclave.object.%s" $name) $root | fromYaml -}}
{{- if hasKey $object "Error" }}{{ fail (printf "the object %s is no YAML: %s" $name (get $object "Error")) }}{{ end -}}
{{- $over := get $root.Values.merge $name -}}
{{- if $over }}{{ $object = (include "conclave.lay" (list $object $over) | fromJson).v }}{{ end -}}
{{- toYaml $object -}}
{{- end }}

{{/* (list BASE OVER), gives {"v": MERGED} in JSON. */}}
{{- define "conclave.lay" -}}
{{- $base := index . 0 -}}
{{- $over := index . 1 -}}
{{- if and (kindIs "map" $base) (kindIs "map" $over) -}}
  {{- $out := deepCopy $base -}}
  {{- range $key, $value := $over -}}
    {{- if kindIs "invalid" $value }}{{ $_ := unset $out $key }}
    {{- else if hasKey $out $key }}{{ $_ := set $out $key (include "conclave.lay" (list (get $base $key) $value) | fromJson).v }}
    {{- else }}{{ $_ := set $out $key $value }}{{ end -}}
  {{- end -}}
  {{- dict "v" $out | toJson -}}
{{- else if and (kindIs "slice" $base) (kindIs "slice" $over) (eq (include "conclave.allNamed" $base) "yes") (eq (include "conclave.allNamed" $over) "yes") -}}
  {{- $out := list -}}
  {{- range $item := $base -}}
    {{- $laid := $item -}}
    {{- range $other := $over }}{{ if eq $other.name $item.name }}{{ $laid = (include "conclave.lay" (list $item $other) | fromJson).v }}{{ end }}{{ end -}}
    {{- $out = append $out $laid -}}
  {{- end -}}
  {{- range $other := $over -}}
    {{- $there := false -}}
    {{- range $item := $base }}{{ if eq $other.name $item.name }}{{ $there = true }}{{ end }}{{ end -}}
    {{- if not $there }}{{ $out = append $out $other }}{{ end -}}
  {{- end -}}
  {{- dict "v" $out | toJson -}}
{{- else -}}
  {{- dict "v" $over | toJson -}}
{{- end -}}
{{- end }}

{{- define "conclave.allNamed" -}}
{{- $all := not (empty .) -}}
{{- range . }}{{ if not (and (kindIs "map" .) (hasKey . "name")) }}{{ $all = false }}{{ end }}{{ end -}}
{{- $all | ternary "yes" "no" -}}
{{- end }}
