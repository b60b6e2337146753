{{/* Labels of everything. Takes a list: the root, and the component or "". */}}
{{- define "atoll.labels" -}}
{{ include "atoll.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end }}

{{/* Labels that select a component's pods; as above. */}}
{{- define "atoll.selector" -}}
app.kubernetes.io/name: atoll
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "atoll.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "atoll.contentDomain" -}}
{{ .Values.contentDomain | default (printf "sandboxes.%s" .Values.domain) }}
{{- end }}

{{/* What is seen from outside: https unless Traefik has no TLS. */}}
{{- define "atoll.scheme" -}}
{{ ternary "https" "http" .Values.traefik.tls.enabled }}
{{- end }}

{{- define "atoll.agentKeySecret" -}}
{{ .Values.keys.agent.existingSecret | default "atoll-agent-key" }}
{{- end }}

{{- define "atoll.gatewayKeySecret" -}}
{{ .Values.keys.gateway.existingSecret | default "atoll-gateway-key" }}
{{- end }}

{{- define "atoll.adminKeySecret" -}}
{{ .Values.keys.admin.existingSecret | default "atoll-admin-key" }}
{{- end }}

{{- define "atoll.databaseSecret" -}}
{{ .Values.database.existingSecret | default "atoll-database" }}
{{- end }}

{{/* Whether the bundled PostgreSQL is used: "true" or "". */}}
{{- define "atoll.bundled" -}}
{{- if and .Values.database.bundled.enabled (not .Values.database.url) (not .Values.database.existingSecret) -}}true{{- end -}}
{{- end }}

{{/* Security of a pod of ours. Takes the user's number. */}}
{{- define "atoll.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "atoll.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods of a component go. Takes a list: the root, the component, its values. */}}
{{- define "atoll.placement" -}}
{{- $placement := index . 2 -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "atoll.selector" . | nindent 8 }}
{{- with $placement.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $placement.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $placement.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Replaces pods one at a time and never before the next is ready. */}}
{{- define "atoll.strategy" -}}
type: RollingUpdate
rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
{{- end }}

{{/* Probes of what answers /healthz and /readyz. Takes the port's name. */}}
{{- define "atoll.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}

{{/* Arguments of everything of ours that speaks to the cluster. */}}
{{- define "atoll.clusterArgs" -}}
- --platform-namespace={{ .Release.Namespace }}
- --namespace-prefix={{ .Values.namespacePrefix }}
- --agent-key=/keys/agent.key
{{- range $name, $most := .Values.sandboxes.max }}
{{- with $most }}
- {{ printf "--max-%s=%v" $name . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Arguments of API and gateway. */}}
{{- define "atoll.serveArgs" -}}
- --domain={{ include "atoll.contentDomain" . }}
- --content-url={{ include "atoll.scheme" . }}://{host}
- --gateway-key=/keys/gateway.key
- --log-format={{ .Values.logFormat }}
{{- if .Values.serviceMonitor.enabled }}
- --metrics-public
{{- end }}
{{- end }}

{{/* What containers under /api/kata are, for the API that asks for them and the operator that makes them. */}}
{{- define "atoll.executorArgs" -}}
- {{ printf "--kata-image=%s" .Values.executor.image | quote }}
- {{ printf "--kata-runtime-class=%s" .Values.executor.runtimeClass | quote }}
{{- end }}

{{/* Where the operator's routes begin: as the wildcard's does. */}}
{{- define "atoll.routeArgs" -}}
{{- range .Values.traefik.entryPoints }}
- {{ printf "--route-entry-point=%s" . | quote }}
{{- end }}
{{- with .Values.traefik.tls }}
{{- if .enabled }}
- --route-tls
{{- with .contentSecret }}
- {{ printf "--route-tls-secret=%s" . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "atoll.serveEnv" -}}
- name: ATOLL_DATABASE
  valueFrom: {secretKeyRef: {name: {{ include "atoll.databaseSecret" . }}, key: url}}
{{- end }}

{{/* What sandboxes' name servers do. */}}
{{- define "atoll.corefile" -}}
. {
    errors
    health :8080
    ready :8181
    # Nothing of the cluster and nothing private is told, in neither direction.
    template ANY ANY cluster.local internal local localhost home.arpa 10.in-addr.arpa 168.192.in-addr.arpa {
        rcode REFUSED
    }
    template ANY ANY 254.169.in-addr.arpa 127.in-addr.arpa c.f.ip6.arpa d.f.ip6.arpa 8.e.f.ip6.arpa 9.e.f.ip6.arpa a.e.f.ip6.arpa b.e.f.ip6.arpa {
        rcode REFUSED
    }
    template ANY ANY{{ range $number := untilStep 16 32 1 }} {{ $number }}.172.in-addr.arpa{{ end }} {
        rcode REFUSED
    }
    template ANY ANY{{ range $number := untilStep 64 128 1 }} {{ $number }}.100.in-addr.arpa{{ end }} {
        rcode REFUSED
    }
    forward .{{ range .Values.resolver.upstreams }} {{ . }}{{ end }}
    cache 30
    loop
}
{{- end }}

{{/* Conditions of ValidatingAdmissionPolicies on all containers of a list, which stands before them with a dot. */}}
{{- define "atoll.restrictedContainers" -}}
all(it, has(it.securityContext)
  && has(it.securityContext.allowPrivilegeEscalation) && !it.securityContext.allowPrivilegeEscalation
  && (!has(it.securityContext.runAsNonRoot) || it.securityContext.runAsNonRoot)
  && (variables.nonRoot || has(it.securityContext.runAsNonRoot))
  && (!has(it.securityContext.runAsUser) || it.securityContext.runAsUser != 0)
  && (!has(it.securityContext.capabilities) || !has(it.securityContext.capabilities.add)
    || it.securityContext.capabilities.add.all(name, name == 'NET_BIND_SERVICE')))
{{- end }}
{{- define "atoll.fewCapabilities" -}}
all(it, !has(it.securityContext) || !has(it.securityContext.capabilities) || !has(it.securityContext.capabilities.add)
  || it.securityContext.capabilities.add.all(name, name in variables.few))
{{- end }}
{{- define "atoll.heldContainers" -}}
all(it, has(it.securityContext) && has(it.securityContext.capabilities) && has(it.securityContext.capabilities.drop)
  && it.securityContext.capabilities.drop.exists(name, name == 'ALL')
  && (!has(it.securityContext.privileged) || !it.securityContext.privileged)
  && (!has(it.securityContext.procMount) || it.securityContext.procMount == 'Default')
  && (has(it.securityContext.seccompProfile)
    ? it.securityContext.seccompProfile.type in ['RuntimeDefault', 'Localhost'] : variables.filtered)
  && (!has(it.ports) || it.ports.all(port, !has(port.hostPort) || port.hostPort == 0)))
{{- end }}
